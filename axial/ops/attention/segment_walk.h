// SPDX-License-Identifier: Apache-2.0
// The CPU implementation behind segment_attention: one task per (segment, key/value head), stripes of
// queries inside. Called by attention.cpp, which has checked every argument.
#pragma once

#include <ATen/core/Tensor.h>

namespace axial::ops::detail {

/// Checked arguments. T tokens, H query heads, G key/value heads, D head width.
struct SegmentProblem {
  at::Tensor q;         // [T, H, D], last dim contiguous
  at::Tensor k, v;      // [T, G, D], last dim contiguous
  at::Tensor segments;  // [S + 1] int64, contiguous, host
  at::Tensor slopes;    // [H] float64 contiguous, or undefined
  double scale = 1.0;
};  // q, k and v are fp64, fp32, bf16 or fp16

/// out [T, H, D] (dtype of q) and log_sum_exp [H, T] (fp32; fp64 for fp64), both contiguous.
void segment_attention_forward(const SegmentProblem& problem, const at::Tensor& out,
                               const at::Tensor& log_sum_exp);

/// Gradients of q, k and v, contiguous, every element written. `grad_out` has q's shape, last dim contiguous.
void segment_attention_backward(const SegmentProblem& problem, const at::Tensor& out,
                                const at::Tensor& log_sum_exp, const at::Tensor& grad_out,
                                const at::Tensor& grad_q, const at::Tensor& grad_k, const at::Tensor& grad_v);

}  // namespace axial::ops::detail
