// SPDX-License-Identifier: Apache-2.0
// Attention forward with online softmax: a tile of queries walks the keys in blocks, keeping per query the
// largest logit, the sum and the output so far. Its products are those of an engine (products_inl.h,
// amx_inl.h). Included once per target by the files that name one.

#if defined(AXIAL_KERNELS_ATTENTION_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_FORWARD_INL_H_
#undef AXIAL_KERNELS_ATTENTION_FORWARD_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_FORWARD_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/products_inl.h"
#include "axial/kernels/attention/walk_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

/// Largest logit and sum per query of a tile.
struct Softmax {
  Floats largest[kVectors];
  Floats sum[kVectors];
};

// b.scores[key][query] = logits of a block; `largest` grows.
template <class Products, ScoreMode kMode, bool kMasked>
void score_block(const ForwardBuffers& b, const QueryTile& tile, const Terms& terms, int64_t first_key,
                 float scale, Floats (&largest)[kVectors]) {
  const Floats scales = hn::Set(FloatTag(), scale);
  Floats most[kVectors] = {largest[0], largest[1]};
  float* scores = b.scores;
  const typename Products::Logits logits(b, first_key, scores);
  for (int64_t r0 = 0; r0 < kForwardKeys; r0 += kRows, scores += kRows * kQueries) {
    Block<kVectors> block;
    logits(block, r0);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        Floats score = finish_score<kMode>(block.at[r][v], scales, tile, terms, r0 + r, v);
        if constexpr (kMasked) score = mask_score(score, tile, first_key + r0 + r, v);
        most[v] = hn::Max(most[v], score);
        store_floats(score, scores + r * kQueries + v * kLanes);
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) largest[v] = most[v];
}

// What stands for a largest logit of minus infinity in differences: nothing was seen, so exp(-inf - 0) = 0.
HWY_INLINE Floats finite(Floats largest) {
  const FloatTag d;
  const Floats none = hn::Set(d, -std::numeric_limits<float>::infinity());
  return hn::IfThenZeroElse(hn::Eq(largest, none), largest);
}

// scores become exp(score - largest), added to the sums; the output and sums so far shrink when largest grew.
template <class Products>
HWY_INLINE void update_softmax(const ForwardBuffers& b, const Floats (&largest)[kVectors], Softmax& state) {
  const FloatTag d;
  Floats shift[kVectors];
  bool grew = false;
  for (int v = 0; v < kVectors; ++v) {
    shift[v] = finite(largest[v]);
    grew = grew || !hn::AllTrue(d, hn::Eq(largest[v], state.largest[v]));
  }
  if (grew) {
    Floats shrink[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      shrink[v] = exp_of_negative(hn::Sub(state.largest[v], shift[v]));
      state.sum[v] = hn::Mul(state.sum[v], shrink[v]);
      state.largest[v] = largest[v];
    }
    float* const out = b.out;
    const int64_t width = b.width;
    for (int64_t c = 0; c < width; ++c) {
      for (int v = 0; v < kVectors; ++v) {
        float* at = out + c * kQueries + v * kLanes;
        store_floats(hn::Mul(load_floats(at), shrink[v]), at);
      }
    }
  }
  Floats sums[kVectors];
  Products::exponentials(b, shift, sums);
  for (int v = 0; v < kVectors; ++v) state.sum[v] = hn::Add(state.sum[v], sums[v]);
}

template <class Products, bool kMasked>
HWY_INLINE void score_any(const ForwardBuffers& b, const QueryTile& tile, const Terms& terms,
                          int64_t first_key, float scale, Floats (&largest)[kVectors]) {
  switch (mode_of(tile, terms)) {
    case ScoreMode::kPlain:
      return score_block<Products, ScoreMode::kPlain, kMasked>(b, tile, terms, first_key, scale, largest);
    case ScoreMode::kDense:
      return score_block<Products, ScoreMode::kDense, kMasked>(b, tile, terms, first_key, scale, largest);
    case ScoreMode::kDenseKey:
      return score_block<Products, ScoreMode::kDenseKey, kMasked>(b, tile, terms, first_key, scale, largest);
    case ScoreMode::kGeneral:
      return score_block<Products, ScoreMode::kGeneral, kMasked>(b, tile, terms, first_key, scale, largest);
  }
}

HWY_INLINE void write_tile(const AttentionForward& p, const Head& head, const QueryTile& tile,
                           const Softmax& state, const ForwardBuffers& b) {
  const FloatTag d;
  const int64_t width = b.width;
  for (int v = 0; v < kVectors; ++v) {
    const auto nothing = hn::Eq(state.sum[v], hn::Zero(d));  // not its negation: a sum may be no number
    const Floats inverse = hn::Div(hn::Set(d, 1.0f), state.sum[v]);
    for (int64_t c = 0; c < width; ++c) {
      float* at = b.out + c * kQueries + v * kLanes;
      store_floats(hn::IfThenZeroElse(nothing, hn::Mul(load_floats(at), inverse)), at);
    }
  }
  lanes_to_rows(b.out, width, b.rows, width);
  const Matrix out = head_matrix(p.out, head.place, p.in.sizes.num_leading, head.index, tile.first);
  unpack_rows(b.rows, width, tile.count, p.in.sizes.width, out, b.streamed);
  if (p.statistics == nullptr) return;
  HWY_ALIGN float largest[kQueries], sum[kQueries];
  for (int v = 0; v < kVectors; ++v) {
    store_floats(state.largest[v], largest + v * kLanes);
    store_floats(state.sum[v], sum + v * kLanes);
  }
  float* statistics = static_cast<float*>(p.statistics) + (head.row * p.in.sizes.queries + tile.first) * 2;
  for (int64_t i = 0; i < tile.count; ++i) {
    statistics[2 * i] = largest[i];
    statistics[2 * i + 1] = sum[i];
  }
}

template <class Products>
void forward_tile(const AttentionForward& p, const Head& head, const QueryTile& tile, int64_t stripe_begin,
                  const ForwardBuffers& b, Upcoming& upcoming) {
  const FloatTag d;
  const float scale = static_cast<float>(p.in.scale);
  const int64_t width = b.width;
  const Matrix q = head_matrix(p.in.q, head.place, p.in.sizes.num_leading, head.index, tile.first);
  pack_rows(q, tile.count, p.in.sizes.width, kQueries, width, b.rows);
  rows_to_lanes(b.rows, width, width, b.q);
  Products::prepare_queries(b);
  Softmax state;
  for (int v = 0; v < kVectors; ++v) {
    state.largest[v] = hn::Set(d, -std::numeric_limits<float>::infinity());
    state.sum[v] = hn::Zero(d);
  }
  std::fill(b.out, b.out + width * kQueries, 0.0f);
  for_blocks<kForwardKeys>(p.in, head, tile, stripe_begin, b.terms,
                           [&](int64_t key, const Terms& terms, bool masked) HWY_ATTR {
                             Floats largest[kVectors] = {state.largest[0], state.largest[1]};
                             if (masked) {
                               score_any<Products, true>(b, tile, terms, key, scale, largest);
                             } else {
                               score_any<Products, false>(b, tile, terms, key, scale, largest);
                             }
                             upcoming.step();
                             update_softmax<Products>(b, largest, state);
                             Products::add_values(b, key);
                           });
  write_tile(p, head, tile, state, b);
}

// What the walk's next place will read, spread over the blocks of this one.
HWY_INLINE Upcoming upcoming_of(const AttentionForward& p, const Plan& plan, int64_t own, int64_t walk,
                                int64_t split, const Interval& queries) {
  const AttentionSizes& s = p.in.sizes;
  const int64_t rows = queries.end - queries.begin;
  Upcoming upcoming(plan.group * attention::ceil_div(rows, kQueries) *
                    attention::ceil_div(s.keys, kForwardKeys));
  if (walk >= plan.walk_begin(split + 1)) return upcoming;
  const Place next = plan.place(own, walk);
  upcoming.add(head_matrix(p.in.k, next, s.num_leading, next.kv_head, 0), s.keys, s.width);
  upcoming.add(head_matrix(p.in.v, next, s.num_leading, next.kv_head, 0), s.keys, s.width);
  const int64_t head = next.kv_head * plan.group;
  upcoming.add(head_matrix(p.in.q, next, s.num_leading, head, queries.begin), rows, s.width);
  return upcoming;
}

template <class Products>
void forward_unit(const AttentionForward& p, const Plan& plan, int64_t unit, const ForwardBuffers& b) {
  const int64_t part = unit % plan.query_parts, split = unit / plan.query_parts % plan.splits;
  const int64_t own = unit / (plan.query_parts * plan.splits);
  const Interval queries{part * plan.part, std::min((part + 1) * plan.part, p.in.sizes.queries)};
  [[maybe_unused]] const typename Products::Session session;
  StripeOwner stripes;
  for (int64_t w = plan.walk_begin(split); w < plan.walk_begin(split + 1); ++w) {
    const Place place = plan.place(own, w);
    const Interval keys = keys_seen(p.in, place, queries);
    Upcoming upcoming = upcoming_of(p, plan, own, w + 1, split, queries);
    pack_keys<kForwardKeys>(p.in, place, queries, keys, b.width, b.k, b.v);
    Products::prepare_keys(b, keys);
    for (int64_t r = 0; r < plan.group; ++r) {
      const Head head = head_of(p.in, place, r);
      pack_head<kForwardKeys>(p.in, plan, head, queries, keys, b.terms, stripes);
      for (int64_t first = queries.begin; first < queries.end; first += kQueries) {
        const QueryTile tile = query_tile(p.in, plan, head, {first, std::min(first + kQueries, queries.end)});
        forward_tile<Products>(p, head, tile, queries.begin, b, upcoming);
      }
    }
  }
  if (b.streamed) hwy::FlushStream();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
