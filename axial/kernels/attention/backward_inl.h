// SPDX-License-Identifier: Apache-2.0
// Attention backward in one pass: probabilities are computed again tile by tile, and dQ, dK, dV and the
// gradients of the biases come from the same tile. Its products are those of an engine (products_inl.h,
// amx_inl.h). Included once per target by the files that name one.
//   P = exp(S - largest) / sum,  dP = dO V^T,  dS = P (dP - delta),  delta = sum over keys of P dP
//   dV += P^T dO,  dK += dS^T Q scale,  dQ += dS K scale,  dBias += dS

#if defined(AXIAL_KERNELS_ATTENTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_BACKWARD_INL_H_
#undef AXIAL_KERNELS_ATTENTION_BACKWARD_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_BACKWARD_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/gradient_inl.h"
#include "axial/kernels/attention/sums.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

using attention::BackwardSums;
using attention::leading_count;

// Rows of a bias's gradient that are summed in fp32 before they go to the share: bounds the rounding of long
// sums.
inline constexpr int64_t kHeadsPerFlush = 32;

// Queries, incoming gradients and the row statistics of a tile.
inline void load_tile(const AttentionBackward& p, const Head& head, const QueryTile& tile,
                      const BackwardBuffers& b, TileState& state) {
  const FloatTag d;
  const int n = p.in.sizes.num_leading;
  const int64_t cols = p.in.sizes.width;
  pack_rows(head_matrix(p.in.q, head.place, n, head.index, tile.first), tile.count, cols, kQueries, b.pitch,
            b.q_rows);
  pack_rows(head_matrix(p.dout, head.place, n, head.index, tile.first), tile.count, cols, kQueries, b.pitch,
            b.dout_rows);
  rows_to_lanes(b.q_rows, b.pitch, b.width, b.q);
  rows_to_lanes(b.dout_rows, b.pitch, b.width, b.dout);
  HWY_ALIGN float shift[kQueries], inverse[kQueries];
  const float* statistics =
      static_cast<const float*>(p.statistics) + (head.row * p.in.sizes.queries + tile.first) * 2;
  for (int64_t i = 0; i < kQueries; ++i) {
    const bool seen = i < tile.count && statistics[2 * i + 1] != 0;
    shift[i] = seen ? statistics[2 * i] : std::numeric_limits<float>::infinity();
    inverse[i] = seen ? 1 / statistics[2 * i + 1] : 0.0f;
  }
  for (int v = 0; v < kVectors; ++v) {
    state.shift[v] = load_floats(shift + v * kLanes);
    state.inverse[v] = load_floats(inverse + v * kLanes);
    state.products[v] = hn::Zero(d);
    state.dquery[v] = hn::Zero(d);
  }
}

// Delta from the output, summed column by column as dP is: where one key is seen, dP - delta is 0 to the bit.
inline void load_delta(const AttentionBackward& p, const Head& head, const QueryTile& tile,
                       const BackwardBuffers& b, TileState& state) {
  pack_rows(head_matrix(p.out, head.place, p.in.sizes.num_leading, head.index, tile.first), tile.count,
            p.in.sizes.width, kQueries, b.pitch, b.rows);
  rows_to_lanes(b.rows, b.pitch, b.width, b.dq);
  for (int v = 0; v < kVectors; ++v) {
    state.delta[v] = hn::Zero(FloatTag());
    for (int64_t c = 0; c < b.width; ++c) {
      const int64_t at = c * kQueries + v * kLanes;
      state.delta[v] = hn::MulAdd(load_floats(b.dq + at), load_floats(b.dout + at), state.delta[v]);
    }
  }
}

// dS of a block goes straight to the gradient of a bias that no other block adds to.
HWY_INLINE void write_block(const AttentionBackward& p, const Plan& plan, const Head& head,
                            const QueryTile& tile, int64_t key, const float* ds, const BackwardBuffers& b) {
  lanes_to_rows(ds, kBackwardKeys, b.dblock, kBackwardKeys);
  const int64_t n = std::min(kBackwardKeys, p.in.sizes.keys - key);
  for (int i = 0; i < 2; ++i) {
    if (p.dbias[i].data == nullptr || plan.kinds[i] != BiasKind::kDense || plan.summed[i]) continue;
    Matrix to = bias_matrix(p.dbias[i], head.place, p.in.sizes.num_leading, head.index);
    to.data = static_cast<char*>(to.data) + (tile.first * to.row + key * to.col) * size_of(to.dtype);
    unpack_rows(b.dblock, kBackwardKeys, tile.count, n, to, b.streamed);
  }
}

inline void finish_tile(const AttentionBackward& p, const Head& head, const QueryTile& tile,
                        const BackwardBuffers& b, const BackwardSums& sums, const TileState& state) {
  if (p.dq.data != nullptr) {
    const Floats scale = hn::Set(FloatTag(), static_cast<float>(p.in.scale));
    for (int64_t at = 0; at < b.width * kQueries; at += kLanes) {
      store_floats(hn::Mul(load_floats(b.dq + at), scale), b.dq + at);
    }
    lanes_to_rows(b.dq, b.width, b.rows, b.pitch);
    unpack_rows(b.rows, b.pitch, tile.count, p.in.sizes.width,
                head_matrix(p.dq, head.place, p.in.sizes.num_leading, head.index, tile.first), b.streamed);
  }
  HWY_ALIGN float dquery[kQueries];
  for (int v = 0; v < kVectors; ++v) store_floats(state.dquery[v], dquery + v * kLanes);
  for (float* share : sums.by_query) {
    if (share == nullptr) continue;
    std::copy(dquery, dquery + tile.count, share + head.row * p.in.sizes.queries + tile.first);
  }
}

template <class Products>
void backward_tile(const AttentionBackward& p, const Plan& plan, const Head& head, const QueryTile& tile,
                   int64_t stripe_begin, const BackwardBuffers& b, const BackwardSums& sums) {
  const float scale = static_cast<float>(p.in.scale);
  const int64_t width = b.width;
  TileState state;
  load_tile(p, head, tile, b, state);
  Products::prepare_queries(b);
  for (int i = 0; i < 2; ++i) {
    if (b.dstripe[i]) state.dstripe[i] = b.dstripe[i] + (tile.first - stripe_begin) * b.terms.padded_keys;
  }
  state.dkey = b.dkey;
  const auto score = [&](int64_t key, const Terms& terms, bool masked, int64_t at) HWY_ATTR {
    if (masked) {
      probabilities<Products, true>(b, tile, terms, key, scale, b.p + at * kQueries, b.ds + at * kQueries,
                                    state);
    } else {
      probabilities<Products, false>(b, tile, terms, key, scale, b.p + at * kQueries, b.ds + at * kQueries,
                                     state);
    }
  };
  const auto differentiate = [&](int64_t key, int64_t at) HWY_ATTR {
    const float* probability = b.p + at * kQueries;
    float* ds = b.ds + at * kQueries;
    difference_block(probability, ds, key, state);
    Products::add_gradients(b, key, probability, ds, p.dq.data != nullptr, p.dk.data != nullptr,
                            p.dv.data != nullptr);
    if (b.dblock != nullptr) write_block(p, plan, head, tile, key, ds, b);
  };
  if (b.whole) {
    int64_t visited[kExactKeys / kBackwardKeys], count = 0;
    for_blocks<kBackwardKeys>(p.in, head, tile, stripe_begin, b.terms,
                              [&](int64_t key, const Terms& terms, bool masked) HWY_ATTR {
                                score(key, terms, masked, key);
                                visited[count++] = key;
                              });
    for (int v = 0; v < kVectors; ++v) state.delta[v] = state.products[v];
    std::fill(b.dq, b.dq + width * kQueries, 0.0f);
    for (int64_t i = 0; i < count; ++i) differentiate(visited[i], visited[i]);
  } else {
    load_delta(p, head, tile, b, state);
    std::fill(b.dq, b.dq + width * kQueries, 0.0f);
    for_blocks<kBackwardKeys>(p.in, head, tile, stripe_begin, b.terms,
                              [&](int64_t key, const Terms& terms, bool masked) HWY_ATTR {
                                score(key, terms, masked, 0);
                                differentiate(key, 0);
                              });
  }
  Products::finish_queries(b, p.dq.data != nullptr);
  finish_tile(p, head, tile, b, sums, state);
}

/// Where the packed gradients of dense biases go, and how many heads they hold.
struct GradientOwner {
  int64_t offset[2] = {-1, -1};
  int64_t heads = 0;
};

inline int64_t extent_offset(const attention::BiasExtent& extent, const Head& head, int num_leading) {
  return attention::leading_offset(extent.leading, head.place, num_leading) + head.index * extent.head;
}

// Add the packed gradient of one bias to its share and clear it.
inline void flush_stripe(const AttentionBackward& p, const Plan& plan, const BackwardSums& sums,
                         const BackwardBuffers& b, int64_t split, int bias, int64_t offset,
                         const Interval& queries) {
  const attention::BiasExtent& extent = sums.extents[bias];
  float* share = sums.dense[bias] + split * extent.count + offset;
  const int64_t padded = b.terms.padded_keys;
  HWY_ALIGN float rows[kQueries * kBackwardKeys];
  for (int64_t first = queries.begin; first < queries.end; first += kQueries) {
    float* tile = b.dstripe[bias] + (first - queries.begin) * padded;
    for (int64_t key = 0; key < p.in.sizes.keys; key += kBackwardKeys) {
      lanes_to_rows(tile + key * kQueries, kBackwardKeys, rows, kBackwardKeys);
      const int64_t n = std::min(kBackwardKeys, p.in.sizes.keys - key);
      for (int64_t i = 0; i < std::min<int64_t>(kQueries, queries.end - first); ++i) {
        float* to = share + (first + i) * extent.query + key;
        for_lanes(n, [&](int64_t j, auto part) HWY_ATTR {
          store(hn::Add(load(to + j, part), load(rows + i * kBackwardKeys + j, part)), to + j, part);
        });
      }
    }
  }
  std::fill(b.dstripe[bias], b.dstripe[bias] + plan.stripe * padded, 0.0f);
}

inline void own_gradients(const AttentionBackward& p, const Plan& plan, const BackwardSums& sums,
                          const BackwardBuffers& b, int64_t split, const Interval& stripe, const Head* head,
                          GradientOwner& owner) {
  const bool full = ++owner.heads > kHeadsPerFlush;
  for (int i = 0; i < 2; ++i) {
    if (b.dstripe[i] == nullptr) continue;
    const int64_t offset = head ? extent_offset(sums.extents[i], *head, p.in.sizes.num_leading) : -1;
    if (offset == owner.offset[i] && !full) continue;
    if (owner.offset[i] >= 0) {
      flush_stripe(p, plan, sums, b, split, i, owner.offset[i], stripe);
    } else {
      std::fill(b.dstripe[i], b.dstripe[i] + plan.stripe * b.terms.padded_keys, 0.0f);
    }
    owner.offset[i] = offset;
  }
  if (full) owner.heads = 1;
}

// Sums over the queries of a stripe of one head, lane by lane, to the shares of the key biases.
inline void flush_keys(const AttentionBackward& p, const Plan& plan, const BackwardSums& sums,
                       const BackwardBuffers& b, int64_t part, const Head& head, const Interval& keys) {
  for (float* shares : sums.by_key) {
    if (shares == nullptr) continue;
    float* share = shares + (head.row * plan.query_parts + part) * p.in.sizes.keys;
    for (int64_t key = keys.begin; key < keys.end; ++key) {
      share[key] += sum_lanes(load_floats(b.dkey + key * kLanes));
    }
  }
}

// dK or dV of one key/value head, from a stripe, added to the part's share; its first stripe clears that.
inline void share_keys(const AttentionBackward& p, const Plan& plan, int64_t part, const Place& place,
                       const Interval& stripe, const Interval& keys, const float* from, int64_t pitch,
                       float* share) {
  const int64_t width = p.in.sizes.width;
  if (stripe.begin == plan.part_begin(part)) {
    const Interval all = keys_seen(p.in, place, {plan.part_begin(part), plan.part_begin(part + 1)});
    std::fill(share + all.begin * width, share + all.end * width, 0.0f);
  }
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    float* to = share + key * width;
    for_lanes(width, [&](int64_t c, auto lanes) HWY_ATTR {
      store(hn::Add(load(to + c, lanes), load(from + key * pitch + c, lanes)), to + c, lanes);
    });
  }
}

// dK or dV of one key/value head, rounded into the result.
inline void write_keys(const AttentionBackward& p, const Place& place, const Interval& keys, float scale,
                       float* from, const BackwardBuffers& b, const AttentionTensor& out) {
  const AttentionSizes& s = p.in.sizes;
  const int64_t pitch = b.pitch;
  const Floats scales = hn::Set(FloatTag(), scale);
  std::fill(from, from + keys.begin * pitch, 0.0f);  // keys that no query sees
  std::fill(from + keys.end * pitch, from + s.keys * pitch, 0.0f);
  for (int64_t at = keys.begin * pitch; at < keys.end * pitch; at += kLanes) {
    store_floats(hn::Mul(load_floats(from + at), scales), from + at);
  }
  unpack_rows(from, pitch, s.keys, s.width, head_matrix(out, place, s.num_leading, place.kv_head, 0),
              b.streamed);
}

template <class Products>
void backward_stripe(const AttentionBackward& p, const Plan& plan, int64_t own, int64_t split, int64_t part,
                     const Interval& stripe, const BackwardBuffers& b, const BackwardSums& sums) {
  StripeOwner biases;
  GradientOwner gradients;
  for (int64_t w = plan.walk_begin(split); w < plan.walk_begin(split + 1); ++w) {
    const Place place = plan.place(own, w);
    const Interval keys = keys_seen(p.in, place, stripe);
    const int64_t first = keys.begin / kBackwardKeys * kBackwardKeys;
    const int64_t last = attention::round_up(keys.end, kBackwardKeys);
    pack_keys<kBackwardKeys>(p.in, place, stripe, keys, b.width, b.k, b.v);
    Products::prepare_keys(b, keys);
    std::fill(b.dk + first * b.pitch, b.dk + last * b.pitch, 0.0f);
    std::fill(b.dv + first * b.pitch, b.dv + last * b.pitch, 0.0f);
    for (int64_t r = 0; r < plan.group; ++r) {
      const Head head = head_of(p.in, place, r);
      pack_head<kBackwardKeys>(p.in, plan, head, stripe, keys, b.terms, biases);
      own_gradients(p, plan, sums, b, split, stripe, &head, gradients);
      if (b.dkey != nullptr) std::fill(b.dkey + first * kLanes, b.dkey + last * kLanes, 0.0f);
      for (int64_t at = stripe.begin; at < stripe.end; at += kQueries) {
        const QueryTile tile = query_tile(p.in, plan, head, {at, std::min(at + kQueries, stripe.end)});
        backward_tile<Products>(p, plan, head, tile, stripe.begin, b, sums);
      }
      flush_keys(p, plan, sums, b, part, head, keys);
    }
    Products::finish_keys(b, keys, p.dk.data != nullptr, p.dv.data != nullptr);
    const auto keep = [&](float scale, float* from, float* shares, const AttentionTensor& out) {
      if (out.data == nullptr) return;
      if (shares == nullptr) return write_keys(p, place, keys, scale, from, b, out);
      const int64_t row =
          part * leading_count(p.in.sizes) * p.in.sizes.kv_heads + sums.kv_row(p.in.sizes, place);
      float* share = shares + row * p.in.sizes.keys * p.in.sizes.width;
      share_keys(p, plan, part, place, stripe, keys, from, b.pitch, share);
    };
    keep(static_cast<float>(p.in.scale), b.dk, sums.dk, p.dk);
    keep(1, b.dv, sums.dv, p.dv);
  }
  own_gradients(p, plan, sums, b, split, stripe, nullptr, gradients);
}

template <class Products>
void backward_unit(const AttentionBackward& p, const Plan& plan, int64_t unit, const BackwardBuffers& b,
                   const BackwardSums& sums) {
  const int64_t part = unit % plan.query_parts, split = unit / plan.query_parts % plan.splits;
  const int64_t own = unit / (plan.query_parts * plan.splits);
  const int64_t end = std::min((part + 1) * plan.part, p.in.sizes.queries);
  const int64_t stripe = plan.stripe > 0 ? plan.stripe : plan.part;
  [[maybe_unused]] const typename Products::Session session;
  for (int64_t begin = part * plan.part; begin < end; begin += stripe) {
    backward_stripe<Products>(p, plan, own, split, part, {begin, std::min(begin + stripe, end)}, b, sums);
  }
  if (b.streamed) hwy::FlushStream();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
