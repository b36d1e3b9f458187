// SPDX-License-Identifier: Apache-2.0
// Contract of the activation kernels of feed-forward layers: y = act(x + bias), and the gated
// y = act(gate) * up (SwiGLU, GEGLU; Shazeer, 2020), forward and backward.
//
// R rows, C columns; strides count elements between rows, columns are contiguous.
// Memory-bound: each input is read once, each output written once; nothing is saved but the input.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

/// Activation function of a feed-forward layer.
enum class Activation {
  kGeluErf,   ///< x * Phi(x), exact
  kGeluTanh,  ///< tanh approximation ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
  kSilu,      ///< x * sigmoid(x)
  kRelu,      ///< max(x, 0)
};

struct ActivationForward {
  Activation kind = Activation::kGeluErf;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* x = nullptr;  ///< [R, C]
  int64_t x_stride = 0;
  const void* bias = nullptr;  ///< [C] or null
  void* y = nullptr;           ///< [R, C]
  int64_t y_stride = 0;
};

struct ActivationBackward {
  Activation kind = Activation::kGeluErf;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* dy = nullptr;  ///< [R, C]
  int64_t dy_stride = 0;
  const void* x = nullptr;  ///< [R, C]
  int64_t x_stride = 0;
  const void* bias = nullptr;  ///< [C] or null
  void* dx = nullptr;          ///< [R, C] or null: not wanted
  int64_t dx_stride = 0;
  void* dbias = nullptr;      ///< [C] or null: not wanted
  void* workspace = nullptr;  ///< workspace_bytes(params), aligned as malloc does
};

struct GatedForward {
  Activation kind = Activation::kSilu;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;               ///< C of y; gate_up has 2C: gate, then up
  const void* gate_up = nullptr;  ///< [R, 2C]
  int64_t gate_up_stride = 0;
  void* y = nullptr;  ///< [R, C]
  int64_t y_stride = 0;
};

struct GatedBackward {
  Activation kind = Activation::kSilu;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* dy = nullptr;  ///< [R, C]
  int64_t dy_stride = 0;
  const void* gate_up = nullptr;  ///< [R, 2C]
  int64_t gate_up_stride = 0;
  void* dgate_up = nullptr;  ///< [R, 2C]
  int64_t dgate_up_stride = 0;
};

/// Bytes of workspace when dbias is wanted (else none is used): its sums over pieces of rows.
int64_t workspace_bytes(const ActivationBackward& params);

/// Run the first implementation that accepts; bitwise equal for any ParallelFor.
Status activation_forward(const ActivationForward& params, const ParallelFor& parallel_for);
Status activation_backward(const ActivationBackward& params, const ParallelFor& parallel_for);
Status gated_forward(const GatedForward& params, const ParallelFor& parallel_for);
Status gated_backward(const GatedBackward& params, const ParallelFor& parallel_for);

/// In order of preference; the last is the reference.
std::span<const Implementation<ActivationForward>> activation_forward_table();
std::span<const Implementation<ActivationBackward>> activation_backward_table();
std::span<const Implementation<GatedForward>> gated_forward_table();
std::span<const Implementation<GatedBackward>> gated_backward_table();

}  // namespace axial::kernels
