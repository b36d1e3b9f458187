// SPDX-License-Identifier: Apache-2.0
// Contract of layer and root-mean-square normalisation over the last dim, forward and backward.
//
// R rows of C columns. Layer: y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(var + eps).
// RMS (Zhang and Sennrich, 2019): y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps).
// Memory-bound: each input is read from memory once, each output written once.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

enum class NormKind {
  kLayer,  ///< centred, with optional bias
  kRms,    ///< not centred, no bias
};

/// Strides count elements between rows; columns are contiguous. Statistics are fp32, fp64 for fp64.
struct NormForward {
  NormKind kind = NormKind::kLayer;
  DType dtype = DType::kF32;  ///< of x, weight, bias and y
  int64_t rows = 0;
  int64_t cols = 0;
  double eps = 1e-5;
  const void* x = nullptr;  ///< [R, C]
  int64_t x_stride = 0;
  const void* weight = nullptr;  ///< [C]
  const void* bias = nullptr;    ///< [C] or null
  void* y = nullptr;             ///< [R, C]
  int64_t y_stride = 0;
  void* mean = nullptr;  ///< [R]; null for kRms
  void* rstd = nullptr;  ///< [R]
};

/// Gradients; each output may be null when it is not wanted.
struct NormBackward {
  NormKind kind = NormKind::kLayer;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* dy = nullptr;  ///< [R, C]
  int64_t dy_stride = 0;
  const void* x = nullptr;  ///< [R, C]
  int64_t x_stride = 0;
  const void* weight = nullptr;  ///< [C]
  const void* mean = nullptr;    ///< [R], as forward wrote it; null for kRms
  const void* rstd = nullptr;    ///< [R]
  void* dx = nullptr;            ///< [R, C]
  int64_t dx_stride = 0;
  void* dweight = nullptr;    ///< [C]
  void* dbias = nullptr;      ///< [C]
  void* workspace = nullptr;  ///< workspace_bytes(params), aligned as malloc does
};

/// Bytes of workspace: sums over pieces of rows, O(min(R / 64, 64) * C).
int64_t workspace_bytes(const NormBackward& params);

/// Run the first implementation that accepts; bitwise equal for any ParallelFor.
Status norm_forward(const NormForward& params, const ParallelFor& parallel_for);
Status norm_backward(const NormBackward& params, const ParallelFor& parallel_for);

/// In order of preference; the last is the reference.
std::span<const Implementation<NormForward>> norm_forward_table();
std::span<const Implementation<NormBackward>> norm_backward_table();

}  // namespace axial::kernels
