// SPDX-License-Identifier: Apache-2.0
// Preparing a head for its tiles: keys, values and biases packed, intervals of keys, and the walk over blocks
// of keys. Included once per target by simd_forward.cpp and simd_backward.cpp.

#if defined(AXIAL_KERNELS_ATTENTION_HEAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_HEAD_INL_H_
#undef AXIAL_KERNELS_ATTENTION_HEAD_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_HEAD_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/buffers.h"
#include "axial/kernels/attention/scores_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

using attention::Cover;
using attention::TermBuffers;

/// A query head of one leading element; `row` counts heads over the leading dims.
struct Head {
  Place place;
  int64_t index = 0;
  int64_t row = 0;
};

HWY_INLINE Head head_of(const AttentionInputs& in, const Place& place, int64_t member) {
  Head head{place, place.kv_head * (in.sizes.heads / in.sizes.kv_heads) + member, 0};
  for (int i = 0; i < in.sizes.num_leading; ++i) head.row = head.row * in.sizes.leading[i] + place.leading[i];
  head.row = head.row * in.sizes.heads + head.index;
  return head;
}

/// The keys that some of the queries see.
HWY_INLINE Interval keys_seen(const AttentionInputs& in, const Place& place, const Interval& queries) {
  if (in.key_begin.data == nullptr && in.key_end.data == nullptr) return {0, in.sizes.keys};
  Interval seen{in.sizes.keys, 0};
  for (int64_t i = queries.begin; i < queries.end; ++i) {
    const Interval one = attention::interval_of(in, place, i);
    if (one.empty()) continue;
    seen = {std::min(seen.begin, one.begin), std::max(seen.end, one.end)};
  }
  return seen.empty() ? Interval{0, 0} : seen;
}

/// k[j * width ..] and v for the blocks of keys that hold `keys`, zero where no query looks: a cache may hold
/// anything there.
template <int64_t kKeys>
void pack_keys(const AttentionInputs& in, const Place& place, const Interval& keys, int64_t width, float* k,
               float* v) {
  if (keys.empty()) return;
  const int64_t first = keys.begin / kKeys * kKeys, last = attention::round_up(keys.end, kKeys);
  const int64_t rows = keys.end - keys.begin, padded = last - keys.begin;
  const int n = in.sizes.num_leading;
  std::fill(k + first * width, k + keys.begin * width, 0.0f);
  std::fill(v + first * width, v + keys.begin * width, 0.0f);
  pack_rows(head_matrix(in.k, place, n, place.kv_head, keys.begin), rows, in.sizes.width, padded, width,
            k + keys.begin * width);
  pack_rows(head_matrix(in.v, place, n, place.kv_head, keys.begin), rows, in.sizes.width, padded, width,
            v + keys.begin * width);
}

/// Which biases the stripe buffers hold.
struct StripeOwner {
  const void* source[2] = {nullptr, nullptr};
  int64_t begin = -1;
};

/// to[key][query] = the bias of `queries` (at most a tile) and `keys` (at most kKeys), zero elsewhere.
template <int64_t kKeys>
void pack_bias_block(const Matrix& bias, const Interval& queries, const Interval& keys, float* rows,
                     float* to) {
  const int64_t n = keys.end - keys.begin, count = queries.end - queries.begin;
  if (n < kKeys || count < kQueries) std::fill(rows, rows + kQueries * kKeys, 0.0f);
  for (int64_t i = 0; i < count; ++i) load_bias_row(bias, queries.begin + i, keys.begin, n, rows + i * kKeys);
  rows_to_lanes(rows, kKeys, kKeys, to);
}

template <int64_t kKeys>
void pack_stripe(const Matrix& bias, const Interval& queries, int64_t num_keys, const TermBuffers& b,
                 float* to) {
  for (int64_t first = queries.begin; first < queries.end; first += kQueries) {
    const Interval tile{first, std::min(first + kQueries, queries.end)};
    for (int64_t key = 0; key < num_keys; key += kKeys) {
      pack_bias_block<kKeys>(bias, tile, {key, std::min(key + kKeys, num_keys)}, b.rows,
                             to + (first - queries.begin) * b.padded_keys + key * kQueries);
    }
  }
}

/// Key biases of a head summed into b.key_bias.
HWY_INLINE void pack_key_bias(const AttentionInputs& in, const Plan& plan, const Head& head,
                              const Interval& keys, const TermBuffers& b) {
  if (b.key_bias == nullptr) return;
  std::fill(b.key_bias, b.key_bias + b.padded_keys, 0.0f);
  for (int i = 0; i < 2; ++i) {
    if (plan.kinds[i] != BiasKind::kKey) continue;
    Matrix bias = bias_matrix(in.bias[i], head.place, in.sizes.num_leading, head.index);
    for (int64_t key = keys.begin; key < keys.end; key += kQueries) {
      HWY_ALIGN float values[kQueries] = {};
      const int64_t n = std::min<int64_t>(kQueries, keys.end - key);
      load_bias_row(bias, 0, key, n, values);
      for (int64_t j = 0; j < n; ++j) b.key_bias[key + j] += values[j];
    }
  }
}

/// What depends on the head: its biases. `queries` are those of the stripe.
template <int64_t kKeys>
void pack_head(const AttentionInputs& in, const Plan& plan, const Head& head, const Interval& queries,
               const Interval& keys, const TermBuffers& b, StripeOwner& owner) {
  pack_key_bias(in, plan, head, keys, b);
  if (plan.stripe == 0) return;
  for (int i = 0; i < 2; ++i) {
    if (b.stripe[i] == nullptr) continue;
    const Matrix bias = bias_matrix(in.bias[i], head.place, in.sizes.num_leading, head.index);
    if (owner.source[i] == bias.data && owner.begin == queries.begin) continue;
    pack_stripe<kKeys>(bias, queries, in.sizes.keys, b, b.stripe[i]);
    owner.source[i] = bias.data;
  }
  owner.begin = queries.begin;
}

/// Intervals, query biases and positions of a tile.
HWY_INLINE QueryTile query_tile(const AttentionInputs& in, const Plan& plan, const Head& head,
                                const Interval& queries) {
  QueryTile tile;
  tile.first = queries.begin;
  tile.count = queries.end - queries.begin;
  tile.any = {in.sizes.keys, 0};
  tile.all = {0, in.sizes.keys};
  tile.base = attention::q_position_of(in, head.place, queries.begin);
  tile.slope = in.slopes == nullptr ? 0.0f : in.slopes[head.index];
  for (int64_t lane = 0; lane < kQueries; ++lane) {
    const int64_t query = tile.first + (lane < tile.count ? lane : 0);
    const Interval keys = attention::interval_of(in, head.place, query);
    tile.begin[lane] = static_cast<int32_t>(keys.begin);
    tile.end[lane] = static_cast<int32_t>(keys.end);
    tile.query_bias[lane] = 0;
    tile.position[0][lane] = tile.position[1][lane] = 0;
    if (in.slopes != nullptr) {
      const int64_t position = attention::q_position_of(in, head.place, query) - tile.base;
      for (int part = 0; part < 2; ++part) tile.position[part][lane] = position_part(position, part);
    }
    if (!keys.empty()) {
      tile.any = {std::min(tile.any.begin, keys.begin), std::max(tile.any.end, keys.end)};
    }
    tile.all = {std::max(tile.all.begin, keys.begin), std::min(tile.all.end, keys.end)};
  }
  for (int i = 0; i < 2; ++i) {
    if (plan.kinds[i] != BiasKind::kQuery) continue;
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
