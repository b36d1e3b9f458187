// SPDX-License-Identifier: Apache-2.0
// Exact softmax attention with biases over kernels/attention: general, Evoformer's, packed segments, and over
// a key/value cache. Models call these; Python sees torch.ops.axial.attention and .evoformer_attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace axial::ops {

using OptionalTensor = std::optional<at::Tensor>;

/// Which keys a query sees beside what biases say. X leading dims, I queries, J keys; tensors lie on the
/// host. Either key_begin and key_end, or any of segments, causal and window.
struct AttentionPattern {
  bool causal = false;       ///< a query sees the keys up to its position
  int64_t window = 0;        ///< 0: all; else only keys at most this far from the query's position
  OptionalTensor segments;   ///< [S + 1] int64 or int32, rising from 0 to I = J: tokens see their own segment
  OptionalTensor key_begin;  ///< int64, broadcastable to [X.., I]: first key seen
  OptionalTensor key_end;    ///< likewise: end of the keys seen
  /// Blocks of queries and keys, compressed sparse rows: query block r sees the key blocks
  /// mask_columns[mask_rows[r]] to mask_columns[mask_rows[r + 1] - 1], rising. One pattern for all heads.
  OptionalTensor mask_rows;     ///< [ceil(I / query_block) + 1] int64
  OptionalTensor mask_columns;  ///< [mask_rows[-1]] int64
  int64_t query_block = 64;
  int64_t key_block = 64;
  /// ALiBi (Press et al., 2022): adds slope * (key position - query position).
  OptionalTensor alibi_slopes;  ///< [H] floating
  /// Positions, for ALiBi, causal and window. With these two, those of the keys rise (within a segment).
  OptionalTensor q_positions;  ///< int64, broadcastable to [X.., I]; none: i + J - I
  OptionalTensor k_positions;  ///< int64, broadcastable to [X.., J]; none: j
};

/// softmax(scale q k^T + bias1 + bias2) v, exactly, without stored logits.
///
/// X any leading dims, I queries, J keys, H heads, G key/value heads (G divides H), D width.
///   q             [X.., I, H, D]  fp64 | fp32 | bf16 | fp16, any strides
///   k, v          [X.., J, G, D]  dtype of q
///   bias1, bias2  broadcastable to [X.., H, I, J], dtype of q or fp32 (fp64 with fp64 alone);
///                 minus infinity, or the dtype's lowest value, hides a key
///   scale         none: 1 / sqrt(D)
///   returns       [X.., I, H, D]  dtype of q, contiguous; 0 for a query that sees no key
///
/// Gradients: q, k, v and each bias, summed over the dims that it is broadcast over; first order only. No
/// dropout: it would need a key per probability that every split of the work agrees on; nothing here asks for
/// it yet. Sums are fp32 (fp64 for fp64), the same bits for any number of threads. Saves its inputs, the
/// output and [X.., H, I, 2] statistics; without gradient nothing. Workspace: kernels/attention. Throws
/// ValueError that names the argument with found and expected shapes, before any work. Local.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const OptionalTensor& bias1, const OptionalTensor& bias2,
                     const AttentionPattern& pattern = {}, std::optional<double> scale = std::nullopt);

/// What a call gave.
struct AttentionResult {
  at::Tensor out;         ///< [X.., I, H, D] without a graph
  at::Tensor statistics;  ///< [X.., H, I, 2] of the rows, fp32 (fp64 for fp64)
};

/// attention() that computes only where `kept` is empty, and fills it: the same call made again, for its
/// gradients, costs no forward pass. The caller vouches that the arguments are equal.
at::Tensor kept_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const OptionalTensor& bias1, const OptionalTensor& bias2,
                          const AttentionPattern& pattern, std::optional<double> scale,
                          AttentionResult& kept);

/// The attention of Evoformer and of AlphaFold 3 (Jumper et al., 2021): two biases and nothing hidden
/// otherwise.
at::Tensor evoformer_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const OptionalTensor& bias1, const OptionalTensor& bias2,
                               std::optional<double> scale = std::nullopt);

/// Causal attention inside the segments of packed rows: q [T, H, D], k and v [T, G, D], segments [S + 1].
at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& segments, const OptionalTensor& alibi_slopes,
                             std::optional<double> scale);

/// Attention of new tokens over a key/value cache; no gradient.
///
/// B sequences, N new tokens each, M cache capacity. The caller has already written the new keys and
/// values at [lengths[b], lengths[b] + N); token n of sequence b sees cache entries < lengths[b] + n + 1.
///   q        [B, N, H, D];  k_cache, v_cache [B, M, G, D];  lengths [B] int64 on the host
///   returns  [B, N, H, D]
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k_cache, const at::Tensor& v_cache,
                            const at::Tensor& lengths, const OptionalTensor& alibi_slopes,
                            std::optional<double> scale);

}  // namespace axial::ops
