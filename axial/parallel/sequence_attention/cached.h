// SPDX-License-Identifier: Apache-2.0
// Attention while decoding, over keys and values of earlier tokens: cached on the ranks of ring and ulysses
// where there are any. What a layer of a model calls under StepContext::decode.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "axial/parallel/block/block.h"
#include "axial/parallel/sequence_attention/record_mask.h"

namespace axial::parallel {

struct CachedAttentionOptions {
  std::optional<at::Tensor> alibi_slopes;  ///< [H]
  int64_t window = 0;                      ///< keys at most this far back; 0: all
  const RecordMask* mask = nullptr;        ///< over the places of a sequence
};

/// Cache the new keys and values, then let every new token attend to all tokens of its sequence up to it.
///
/// B sequences, N new tokens each, H heads, G key/value heads, D width; R ranks along ring and ulysses.
///   q     [B, N, H, D]
///   k, v  [B, N, G, D]  dtype of q
///   name  of the block: its caches are context.decode->blocks[name]["k"] and ["v"], made on first use
///   returns  [B, N, H, D]  dtype of q, the same bits on all R ranks
///
/// All R ranks bring the same tensors; position p is cached by rank p % R of them, as its entry p / R, so
/// each holds 1 / R of the cache: [B, ceil(capacity / R), G, D]. Their partial results (fp32, with row
/// statistics) are gathered and merged in the order of the ranks: one all-gather of B N H (D + 2) fp32
/// elements a rank. No gradient. Throws ValueError for lengths that do not fit and for a full cache.
at::Tensor cached_sequence_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const std::string& name, const CachedAttentionOptions& options,
                                     const StepContext& context);

}  // namespace axial::parallel
