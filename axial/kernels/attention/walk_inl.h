// SPDX-License-Identifier: Apache-2.0
// A tile of queries and its walk over the blocks of keys that it sees; rows of the next head fetched on the
// way. Included once per target by simd_forward.cpp and simd_backward.cpp.

#if defined(AXIAL_KERNELS_ATTENTION_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_WALK_INL_H_
#undef AXIAL_KERNELS_ATTENTION_WALK_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_WALK_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "axial/kernels/attention/head_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

/// Rows that the next head will read, fetched into the second-level cache while this one computes: heads of
/// one leading element lie next to each other, so the rows of a head are far apart and no hardware sees the
/// pattern.
class Upcoming {
 public:
  /// `steps` calls of step() go over all rows.
  explicit Upcoming(int64_t steps) : steps_(std::max<int64_t>(steps, 1)) {}

  HWY_INLINE void add(const Matrix& m, int64_t rows, int64_t cols) {
    if (m.data == nullptr || m.col != 1 || count_ == kMost) return;
    const int64_t size = size_of(m.dtype);
    streams_[count_++] = {static_cast<const char*>(m.data), m.row * size, cols * size, rows,
                          attention::ceil_div(rows, steps_)};
  }

  HWY_INLINE void step() {
    for (int i = 0; i < count_; ++i) {
      Stream& s = streams_[i];
      const int64_t n = std::min(s.per_step, s.rows);
      for (int64_t r = 0; r < n; ++r, s.at += s.pitch) {
        for (int64_t byte = 0; byte < s.bytes; byte += kLine) __builtin_prefetch(s.at + byte, 0, 2);
      }
      s.rows -= n;
    }
  }

 private:
  static constexpr int kMost = 3;
  static constexpr int64_t kLine = 64;
  struct Stream {
    const char* at;
    int64_t pitch, bytes, rows, per_step;
  };
  Stream streams_[kMost];
  int count_ = 0;
  int64_t steps_;
};

/// Which keys the lanes of a tile see; lanes beyond `count` repeat the first.
HWY_INLINE void find_intervals(const AttentionInputs& in, const Place& place, QueryTile& tile) {
  if (in.key_begin.data == nullptr && in.key_end.data == nullptr) {  // all see all: no loop over lanes
    const hn::RebindToSigned<FloatTag> di;
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(hn::Zero(di), di, tile.begin + v * kLanes);
      hn::StoreU(hn::Set(di, static_cast<int32_t>(in.sizes.keys)), di, tile.end + v * kLanes);
    }
    tile.any = tile.all = {0, in.sizes.keys};
    return;
  }
  tile.any = {in.sizes.keys, 0};
  tile.all = {0, in.sizes.keys};
  for (int64_t lane = 0; lane < kQueries; ++lane) {
    const Interval keys = attention::interval_of(in, place, tile.first + (lane < tile.count ? lane : 0));
    tile.begin[lane] = static_cast<int32_t>(keys.begin);
    tile.end[lane] = static_cast<int32_t>(keys.end);
    if (!keys.empty()) {
      tile.any = {std::min(tile.any.begin, keys.begin), std::max(tile.any.end, keys.end)};
    }
    tile.all = {std::max(tile.all.begin, keys.begin), std::min(tile.all.end, keys.end)};
  }
}

/// Intervals, query biases and positions of a tile.
HWY_INLINE QueryTile query_tile(const AttentionInputs& in, const Plan& plan, const Head& head,
                                const Interval& queries) {
  QueryTile tile;
  tile.first = queries.begin;
  tile.count = queries.end - queries.begin;
  find_intervals(in, head.place, tile);
  if (in.slopes != nullptr) {
    tile.slope = in.slopes[head.index];
    tile.base = attention::q_position_of(in, head.place, queries.begin);
    for (int64_t lane = 0; lane < kQueries; ++lane) {
      const int64_t query = tile.first + (lane < tile.count ? lane : 0);
      const int64_t position = attention::q_position_of(in, head.place, query) - tile.base;
      for (int part = 0; part < 2; ++part) tile.position[part][lane] = position_part(position, part);
    }
  }
  for (int i = 0; i < 2; ++i) {
    if (plan.kinds[i] != BiasKind::kQuery) continue;
    if (!tile.has_query_bias) std::fill(tile.query_bias, tile.query_bias + kQueries, 0.0f);
    tile.has_query_bias = true;
    const Matrix bias = bias_matrix(in.bias[i], head.place, in.sizes.num_leading, head.index);
    for (int64_t lane = 0; lane < tile.count; ++lane) {
      float value = 0;
      load_bias_row(bias, tile.first + lane, 0, 1, &value);
      tile.query_bias[lane] += value;
    }
  }
  return tile;
}

/// 0 or minus infinity for every pair of a block that the block mask covers in part.
HWY_INLINE void pack_mask(const AttentionInputs& in, const Interval& queries, const Interval& keys,
                          float* to) {
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    for (int64_t lane = 0; lane < kQueries; ++lane) {
      const int64_t query = std::min(queries.begin + lane, queries.end - 1);
      const bool seen = attention::sees(in.mask, query, key);
      to[(key - keys.begin) * kQueries + lane] = seen ? 0.0f : -std::numeric_limits<float>::infinity();
    }
  }
}

/// Call body(first key, terms, whether intervals cut the block) for each block of keys that the tile sees.
/// `stripe_begin` is the first query of the packed stripes.
template <int64_t kKeys, class Body>
HWY_INLINE void for_blocks(const AttentionInputs& in, const Head& head, const QueryTile& tile,
                           int64_t stripe_begin, const TermBuffers& b, const Body& body) {
  const Interval queries{tile.first, tile.first + tile.count};
  for (int64_t key = tile.any.begin / kKeys * kKeys; key < tile.any.end; key += kKeys) {
    const Interval keys{key, std::min(key + kKeys, in.sizes.keys)};
    const Cover cover = attention::cover_of(in.mask, queries, keys);
    if (cover == Cover::kNone) continue;
    Terms terms;
    if (b.key_bias != nullptr) terms.key_bias = b.key_bias + key;
    if (in.slopes != nullptr) {
      for (int64_t j = keys.begin; j < keys.end; ++j) {
        const int64_t position = attention::k_position_of(in, head.place, j) - tile.base;
        for (int part = 0; part < 2; ++part)
          b.key_position[part * kKeys + j - key] = position_part(position, part);
      }
      for (int part = 0; part < 2; ++part) {
        float* at = b.key_position + part * kKeys;
        std::fill(at + (keys.end - key), at + kKeys, 0.0f);
      }
      terms.key_position = b.key_position;
      terms.key_position_pitch = kKeys;
    }
    if (cover == Cover::kSome) {
      pack_mask(in, queries, keys, b.mask);
      terms.mask = b.mask;
    }
    int used = 0;
    for (int i = 0; i < 2; ++i) {
      if (b.stripe[i] != nullptr) {
        terms.dense[used++] = b.stripe[i] + (tile.first - stripe_begin) * b.padded_keys + key * kQueries;
      } else if (b.block[i] != nullptr) {
        const Matrix bias = bias_matrix(in.bias[i], head.place, in.sizes.num_leading, head.index);
        pack_bias_block<kKeys>(bias, queries, keys, b.rows, b.block[i]);
        terms.dense[used++] = b.block[i];
      }
    }
    const bool cut = keys.end - key < kKeys || key < tile.all.begin || key + kKeys > tile.all.end;
    body(key, terms, cut);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
