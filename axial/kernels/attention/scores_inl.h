// SPDX-License-Identifier: Apache-2.0
// Logits of a tile: product of keys and queries, scale, biases, ALiBi, and what is masked. Included once per
// target by simd_forward.cpp and simd_backward.cpp.

#if defined(AXIAL_KERNELS_ATTENTION_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_SCORES_INL_H_
#undef AXIAL_KERNELS_ATTENTION_SCORES_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_SCORES_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/masking.h"
#include "axial/kernels/attention/plan.h"
#include "axial/kernels/attention/rows_inl.h"
#include "axial/kernels/attention/transpose_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

using attention::BiasKind;
using attention::Interval;
using attention::Place;
using attention::Plan;

/// The matrix of one head: rows are queries or keys, columns the width.
HWY_INLINE Matrix head_matrix(const AttentionTensor& t, const Place& place, int num_leading, int64_t head,
                              int64_t first_row) {
  const int64_t at =
      attention::leading_offset(t.leading, place, num_leading) + head * t.head + first_row * t.row;
  return {static_cast<char*>(t.data) + at * size_of(t.dtype), t.dtype, t.row, t.col};
}

/// The matrix of one head's bias: rows are queries, columns keys.
HWY_INLINE Matrix bias_matrix(const AttentionBias& b, const Place& place, int num_leading, int64_t head) {
  const int64_t at = attention::leading_offset(b.leading, place, num_leading) + head * b.head;
  return {static_cast<char*>(b.data) + at * size_of(b.dtype), b.dtype, b.query, b.key};
}

/// The queries of a tile and what is added to their logits.
struct QueryTile {
  int64_t first = 0, count = 0;
  Interval any;                       // keys that at least one query sees
  Interval all;                       // keys that every query sees
  HWY_ALIGN int32_t begin[kQueries];  // per query; lanes beyond `count` repeat the first
  HWY_ALIGN int32_t end[kQueries];
  HWY_ALIGN float query_bias[kQueries];
  HWY_ALIGN float position[2][kQueries];  // relative to `base`: low and high part
  bool has_query_bias = false;
  float slope = 0;
  int64_t base = 0;
};

/// The low or high part of a position.
HWY_INLINE float position_part(int64_t position, int part) {
  const int64_t high = position >> attention::kPositionBits;
  return static_cast<float>(part == 1 ? high : position - (high << attention::kPositionBits));
}

/// What is added to the logits of one block of keys.
struct Terms {
  const float* dense[2] = {nullptr, nullptr};  // [keys][kQueries]
  const float* key_bias = nullptr;             // [keys]
  const float* key_position = nullptr;         // [2][keys], relative to the tile's base: low and high part
  int64_t key_position_pitch = 0;
  const float* mask = nullptr;  // [keys][kQueries], 0 or minus infinity
};

enum class ScoreMode { kPlain, kDense, kDenseKey, kGeneral };

HWY_INLINE ScoreMode mode_of(const QueryTile& tile, const Terms& terms) {
  if (terms.dense[1] || tile.has_query_bias || terms.key_position || terms.mask) return ScoreMode::kGeneral;
  if (terms.dense[0]) return terms.key_bias ? ScoreMode::kDenseKey : ScoreMode::kDense;
  return terms.key_bias ? ScoreMode::kGeneral : ScoreMode::kPlain;
}

template <ScoreMode kMode>
HWY_INLINE Floats finish_score(Floats product, Floats scale, const QueryTile& tile, const Terms& terms,
                               int64_t key, int v) {
  const FloatTag d;
  const int64_t at = key * kQueries + v * kLanes;
  if constexpr (kMode == ScoreMode::kPlain) return hn::Mul(product, scale);
  if constexpr (kMode == ScoreMode::kDense)
    return hn::MulAdd(product, scale, load_floats(terms.dense[0] + at));
  if constexpr (kMode == ScoreMode::kDenseKey) {
    const Floats bias = hn::Add(load_floats(terms.dense[0] + at), broadcast(terms.key_bias + key));
    return hn::MulAdd(product, scale, bias);
  }
  Floats bias = terms.key_bias ? broadcast(terms.key_bias + key) : hn::Zero(d);
  if (terms.dense[0]) bias = hn::Add(bias, load_floats(terms.dense[0] + at));
  if (terms.dense[1]) bias = hn::Add(bias, load_floats(terms.dense[1] + at));
  if (tile.has_query_bias) bias = hn::Add(bias, load_floats(tile.query_bias + v * kLanes));
  if (terms.key_position) {
    // Both differences are exact, so the distance is rounded once, however far apart the positions are.
    const auto apart = [&](int part) HWY_ATTR {
      const float* at_key = terms.key_position + part * terms.key_position_pitch + key;
      return hn::Sub(broadcast(at_key), load_floats(tile.position[part] + v * kLanes));
    };
    const Floats distance = hn::MulAdd(apart(1), hn::Set(d, attention::kPositionStep), apart(0));
    bias = hn::MulAdd(hn::Set(d, tile.slope), distance, bias);
  }
  if (terms.mask) bias = hn::Add(bias, load_floats(terms.mask + at));
  return hn::MulAdd(product, scale, bias);
}

/// `score` where the query sees key number `key` of the head, else minus infinity.
HWY_INLINE Floats mask_score(Floats score, const QueryTile& tile, int64_t key, int v) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto at = hn::Set(di, static_cast<int32_t>(key));
  const auto before = hn::Lt(at, hn::LoadU(di, tile.begin + v * kLanes));
  const auto seen = hn::AndNot(before, hn::Lt(at, hn::LoadU(di, tile.end + v * kLanes)));
  const Floats none = hn::Set(d, -std::numeric_limits<float>::infinity());
  return hn::IfThenElse(hn::RebindMask(d, seen), score, none);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
