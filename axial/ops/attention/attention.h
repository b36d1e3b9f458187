// SPDX-License-Identifier: Apache-2.0
// Causal attention inside segments of a packed batch, and one-token attention over a cache.
// Matrix products by BLAS over stripes of queries, softmax by kernels/causal_softmax.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace axial::ops {

/// Softmax attention where token i sees the tokens j <= i of its own segment.
///
/// T tokens of all rows, H query heads, G key/value heads (G divides H), D head width, S segments.
///   q         [T, H, D]  fp64 | fp32 | bf16 | fp16, last dim contiguous
///   k, v      [T, G, D]
///   segments  [S + 1]    int32 or int64 on the host, rising from 0 to T: segment s starts at segments[s]
///                        and ends before segments[s + 1]
///   alibi_slopes  [H]    fp32 or none: adds slope * (j - i) to the logits (Press et al., 2022)
///   scale                multiplies q k^T; none: 1 / sqrt(D)
///   returns   [T, H, D]  dtype of q, contiguous
///
/// Gradients: q, k, v; first order only. Saves q, k, v, output and one statistic per (token, head).
/// Workspace per thread: a few [n, D] buffers and one or two stripes of 128 x n scores, n the segment's
/// length; never T x T. Sums are kept in fp32 (fp64 for fp64). Bitwise equal for any number of threads.
/// Throws ValueError naming the shapes. Local.
at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& segments, const std::optional<at::Tensor>& alibi_slopes,
                             std::optional<double> scale);

/// Attention of new tokens over a key/value cache; no gradient.
///
/// B sequences, N new tokens each, M cache capacity. The caller has already written the new keys and
/// values at [lengths[b], lengths[b] + N); token n of sequence b sees cache entries < lengths[b] + n + 1.
///   q        [B, N, H, D];  k_cache, v_cache [B, M, G, D];  lengths [B] int64 on the host
///   returns  [B, N, H, D]
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k_cache, const at::Tensor& v_cache,
                            const at::Tensor& lengths, const std::optional<at::Tensor>& alibi_slopes,
                            std::optional<double> scale);

}  // namespace axial::ops
