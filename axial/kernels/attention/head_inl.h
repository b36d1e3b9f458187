// SPDX-License-Identifier: Apache-2.0
// Preparing a head for its tiles: the keys that are seen, keys, values and biases packed. Included once per
// target by simd_forward.cpp and simd_backward.cpp.

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
using attention::keys_seen;
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

/// Zero the packed rows of keys inside `keys` that none of the queries sees: a cache may hold anything there,
/// and the queries of a tile meet each other's keys times 0.
template <int64_t kKeys>
void zero_unseen(const AttentionInputs& in, const Place& place, const Interval& queries, const Interval& keys,
                 int64_t width, float* k, float* v) {
  if (in.key_begin.data == nullptr && in.key_end.data == nullptr && in.mask.query_block == 0) return;
  for (int64_t first = keys.begin / kKeys * kKeys; first < keys.end; first += kKeys) {
    const Interval block{std::max(first, keys.begin), std::min(first + kKeys, keys.end)};
    const uint64_t seen = attention::seen_bits(in, place, queries, block);
    for (int64_t key = block.begin; key < block.end; ++key) {
      if ((seen >> (key - block.begin) & 1) != 0) continue;
      std::fill(k + key * width, k + (key + 1) * width, 0.0f);
      std::fill(v + key * width, v + (key + 1) * width, 0.0f);
    }
  }
}

/// k[j * width ..] and v for the blocks of keys that hold `keys`, zero where none of the queries looks.
template <int64_t kKeys>
void pack_keys(const AttentionInputs& in, const Place& place, const Interval& queries, const Interval& keys,
               int64_t width, float* k, float* v) {
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
  zero_unseen<kKeys>(in, place, queries, keys, width, k, v);
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

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
