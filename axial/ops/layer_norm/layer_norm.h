// SPDX-License-Identifier: Apache-2.0
// Layer normalisation as a differentiable op over kernels/norm.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace axial::ops {

/// Normalise the last dim: y = (x - mean) / sqrt(var + eps) * weight + bias.
///
///   x       [.., C]  fp64 | fp32 | bf16 | fp16, any strides
///   weight  [C]      dtype of x
///   bias    [C]      dtype of x, or none
///   returns [.., C]  dtype of x, contiguous
/// Gradients: x, weight, bias; first order only. Saves x and two row statistics (fp32, fp64 for fp64).
/// Deterministic for any number of threads. Local. Throws ValueError on a shape or dtype mismatch.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      double eps);

}  // namespace axial::ops
