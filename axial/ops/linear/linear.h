// SPDX-License-Identifier: Apache-2.0
// The affine map with an optional residual, as a differentiable op.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace axial::ops {

/// y = x W^T + bias + residual; bias and residual ride on the product and cost no pass of their own.
///
///   x         [.., I]  fp64 | fp32 | bf16 | fp16, any strides
///   weight    [O, I]   dtype of x, any strides
///   bias      [O]      dtype of x
///   residual  [.., O]  dtype of x, leading dims of x; left as it is
///   returns   [.., O]  dtype of x, contiguous
/// Gradients: all four; of second order (the backward is made of differentiable ops). Saves x and weight.
/// fp32 runs on oneDNN where torch has it: on CPUs with AVX-512 that are not Intel's it is faster than
/// MKL, and its bits do not depend on threads; the weight's gradient is torch's own product. Local.
/// Throws ValueError on shapes or dtypes that do not fit.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {},
                  const std::optional<at::Tensor>& residual = {});

}  // namespace axial::ops
