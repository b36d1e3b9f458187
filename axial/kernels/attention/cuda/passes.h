// SPDX-License-Identifier: Apache-2.0
// Which kernels attention's forward and backward on CUDA consist of, and what they need, decided by the shape
// alone: the same list is launched by launch.cu and run on emulated blocks by the tests.
#pragma once

#include "axial/kernels/attention/cuda/cut.h"

namespace axial::kernels::attention::cuda {

inline constexpr int kMostWidth = 128;

/// The width that kernels are made for that holds heads of `width`; 0: none.
constexpr int padded_width(int64_t width) {
  for (int padded = 16; padded <= kMostWidth; padded *= 2) {
    if (width <= padded) return padded;
  }
  return 0;
}

/// Keys of a tile in the forward, in the pass of queries and in that of biases, and queries of a tile in the
/// pass of keys, by padded width: as many as registers hold.
constexpr int forward_keys(int padded) { return padded <= 64 ? 64 : 32; }
constexpr int queries_pass_keys(int padded) { return padded <= 32 ? 64 : padded <= 64 ? 32 : 16; }
constexpr int keys_pass_queries(int padded) { return padded <= 32 ? 64 : padded <= 64 ? 32 : 16; }
inline constexpr int kBiasPassKeys = 32;

/// What a gradient of a bias is summed from.
enum class BiasSource { kNone, kTiles, kByKey, kByQuery };

struct BiasGradient {
  BiasSource source = BiasSource::kNone;
  Cut cut;
  int64_t splits = 1;  ///< of kTiles
};

/// The passes of a backward; offsets count floats of the workspace, after delta.
struct BackwardPasses {
  BiasGradient biases[2];
  bool queries = false, keys = false;  ///< whether these passes have anything to do
  int64_t by_query = -1, by_key = -1;  ///< offsets, negative: not wanted
  int64_t parts = -1;                  ///< of the dense bias that is summed in shares; one after the other
  int64_t floats = 0;
};

/// Blocks that keep a large device busy.
inline constexpr int64_t kWantedBlocks = 264;

inline BackwardPasses passes_of(const AttentionBackward& p) {
  constexpr int64_t kQueriesOfTile = 64;
  const AttentionSizes& s = p.in.sizes;
  const int64_t heads = leading_count(s) * s.heads;
  BackwardPasses out;
  out.floats = round_up(heads * s.queries, 4);  // delta
  const auto take = [&](int64_t count) {
    const int64_t at = out.floats;
    out.floats += round_up(count, 4);
    return at;
  };
  out.queries = p.dq.data != nullptr;
  out.keys = p.dk.data != nullptr || p.dv.data != nullptr;
  int64_t parts = 0;
  for (int b = 0; b < 2; ++b) {
    const AttentionBias& to = p.dbias[b];
    const bool empty = (to.query != 0 && s.queries == 0) || (to.key != 0 && s.keys == 0);
    if (to.data == nullptr || empty) continue;
    BiasGradient& gradient = out.biases[b];
    gradient.cut = cut_of(to, s);
    const bool by_query = to.query != 0 && s.queries > 1, by_key = to.key != 0 && s.keys > 1;
    if (by_query && by_key) {
      gradient.source = BiasSource::kTiles;
      const int64_t tiles =
          gradient.cut.own * ceil_div(s.queries, kQueriesOfTile) * ceil_div(s.keys, kBiasPassKeys);
      gradient.splits = std::clamp<int64_t>(kWantedBlocks / std::max<int64_t>(tiles, 1), 1,
                                            std::clamp<int64_t>(gradient.cut.summed, 1, kMaxSplits));
      if (gradient.splits > 1)
        parts = std::max(parts, gradient.splits * gradient.cut.own * s.queries * s.keys);
    } else if (by_key) {
      gradient.source = BiasSource::kByKey;
      out.keys = true;
      if (out.by_key < 0) out.by_key = take(heads * s.keys);
    } else {
      gradient.source = BiasSource::kByQuery;
      out.queries = true;
      if (out.by_query < 0) out.by_query = take(heads * s.queries);
    }
  }
  if (parts > 0) out.parts = take(parts);
  return out;
}

}  // namespace axial::kernels::attention::cuda
