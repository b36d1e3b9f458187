// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy that returns a sum and a weight; whoever knows the whole batch divides, once.
#pragma once

#include <ATen/core/Tensor.h>

namespace axial::ops {

/// A loss before division: mean = sum / weight over all micro-batches and ranks.
struct LossSum {
  at::Tensor sum;     ///< [] fp32 (fp64 for fp64 logits)
  at::Tensor weight;  ///< [] fp64 number of labels that count; no gradient
};

/// Label of a position that does not count.
inline constexpr int64_t kIgnoreLabel = -100;

/// Sum over rows of logsumexp(logits) - logits[label]; rows labelled kIgnoreLabel give nothing.
///
///   logits [.., V]  fp64 | fp32 | bf16 | fp16; exponentials and sums in fp32 (fp64 for fp64)
///   labels [..]     int64 in [0, V) or kIgnoreLabel; ValueError otherwise
/// Gradients: logits; first order only. Saves logits and one statistic per row. Deterministic. Local.
LossSum cross_entropy(const at::Tensor& logits, const at::Tensor& labels);

/// Log-probability of each label, natural log, fp32 (fp64 for fp64); 0 where the label does not count.
/// No gradient. Shapes as cross_entropy; returns [..].
at::Tensor token_log_likelihood(const at::Tensor& logits, const at::Tensor& labels);

/// Log-sum-exp of each row, fp32 (fp64 for fp64). No gradient. logits as cross_entropy; returns [..].
at::Tensor log_sum_exp(const at::Tensor& logits);

}  // namespace axial::ops
