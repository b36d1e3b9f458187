// SPDX-License-Identifier: Apache-2.0
// Contract of the kernels of an optimizer step: AdamW, sums of squares for gradient norms, finite check.
//
// Each takes a list of tensors, so that one call covers a model: the concatenation of the list is cut into
// chunks of 65536 elements, which are what threads share. Every result is bitwise equal for any
// ParallelFor. Callers: axial/optim.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

/// One parameter of an AdamW step; every buffer holds `count` contiguous elements.
struct AdamWTensor {
  void* parameter = nullptr;   ///< master weights, read and written
  void* exp_avg = nullptr;     ///< first moment, dtype of parameter, read and written
  void* exp_avg_sq = nullptr;  ///< second moment, dtype of parameter, read and written
  const void* grad = nullptr;
  void* copy = nullptr;  ///< the new parameter rounded to copy_dtype, or null
  int64_t count = 0;
  int64_t step = 1;  ///< number of this step, from 1
  double lr = 0;
  double weight_decay = 0;
};

/// AdamW (Loshchilov and Hutter, 2019) as torch.optim.AdamW computes it, in one pass over memory:
///
///   g = grad * grad_scale
///   m = m + (1 - beta1) (g - m)                 v = beta2 v + (1 - beta2) g^2
///   p = p - lr weight_decay p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
///
/// in the dtype of the parameter, with the scalars computed in fp64. Values that are not finite pass
/// through: run finite_check first where a step may be skipped.
/// fp32 parameters take gradients of fp32, bf16 or fp16, fp64 parameters of fp64 or fp32.
struct AdamWStep {
  std::span<const AdamWTensor> tensors;
  DType dtype = DType::kF32;        ///< of parameter and moments: fp32 or fp64
  DType grad_dtype = DType::kF32;   ///< of every gradient
  DType copy_dtype = DType::kBF16;  ///< of every copy: fp32, bf16 or fp16
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double grad_scale = 1;  ///< 1 / loss scale times the clipping factor
};

/// A read-only tensor of a list: `count` contiguous elements.
struct ListedTensor {
  const void* data = nullptr;
  int64_t count = 0;
};

/// sums[i] = sum over the elements of tensors[i] of x^2, in fp64. For a norm of the whole list add the
/// sums in order.
struct SumOfSquares {
  std::span<const ListedTensor> tensors;
  DType dtype = DType::kF32;  ///< fp64, fp32, bf16 or fp16
  double* sums = nullptr;     ///< [number of tensors]
  void* workspace = nullptr;  ///< workspace_bytes(params), aligned for double
};

/// *finite = no element of the list is infinite or NaN. Stops early at a bad chunk.
struct FiniteCheck {
  std::span<const ListedTensor> tensors;
  DType dtype = DType::kF32;  ///< fp64, fp32, bf16 or fp16
  bool* finite = nullptr;
};

/// Bytes of partial sums: 8 per tensor and per chunk.
int64_t workspace_bytes(const SumOfSquares& params);

/// Run the first implementation that accepts. A null pointer of a tensor that is not empty, a negative
/// count, a step below 1 and betas outside [0, 1) are invalid; dtypes other than the above unsupported.
Status adamw_step(const AdamWStep& params, const ParallelFor& parallel_for);
Status sum_of_squares(const SumOfSquares& params, const ParallelFor& parallel_for);
Status finite_check(const FiniteCheck& params, const ParallelFor& parallel_for);

/// In order of preference; the last is the reference.
std::span<const Implementation<AdamWStep>> adamw_step_table();
std::span<const Implementation<SumOfSquares>> sum_of_squares_table();
std::span<const Implementation<FiniteCheck>> finite_check_table();

}  // namespace axial::kernels
