// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation as a differentiable op over kernels/norm.
#pragma once

#include <ATen/core/Tensor.h>

namespace axial::ops {

/// Normalise the last dim: y = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019).
///
///   x       [.., C]  fp64 | fp32 | bf16 | fp16, any strides
///   weight  [C]      dtype of x
///   returns [.., C]  dtype of x, contiguous
/// Gradients: x, weight; first order only. Saves x and one row statistic. Deterministic. Local.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace axial::ops
