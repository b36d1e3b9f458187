// SPDX-License-Identifier: Apache-2.0
// Attention forward of a few queries, as decoding over a cache of keys and values has: every key and value is
// read once, where it lies, with lanes along the width. Tiles (simd_forward.cpp) would pack the whole cache
// for one lane. Compiled once per instruction set, chosen at run time by Highway.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/attention/few_queries.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "axial/kernels/attention/few_queries.h"
#include "axial/kernels/attention/implementations.h"
#include "axial/kernels/attention/scores_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

using attention::FewBuffers;
using attention::FewRow;
using attention::kFewKeys;

constexpr float kNone = -std::numeric_limits<float>::infinity();

// scores[r][j] = q[r] . k[j] for the n keys of a block; the values' lines are asked for on the way.
template <int R, class T>
void few_products(const T* k, int64_t k_row, const T* v, int64_t v_row, int64_t n, int64_t width,
                  const FewBuffers& b) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t j = 0; j < n; ++j) {
    const T *key = k + j * k_row, *value = v + j * v_row;
    for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(value + c);
    Floats sums[R];
    for (int r = 0; r < R; ++r) sums[r] = hn::Zero(FloatTag());
    for_lanes(width, [&](int64_t c, auto part) HWY_ATTR {
      const Floats right = load(key + c, part);
      for (int r = 0; r < R; ++r) {
        sums[r] = hn::MulAdd(load_floats(b.q + r * b.pitch + c), right, sums[r]);
      }
    });
    for (int r = 0; r < R; ++r) b.scores[r * kFewKeys + j] = sum_lanes(sums[r]);
  }
}

// out[r] += sum over the block's keys of p[r][j] v[j], from zero: long chains round more. A value that no
// query sees may be anything.
template <int R, class T>
void few_values(const T* v, int64_t v_row, int64_t n, int64_t width, const FewBuffers& b) {
  for_lanes(width, [&](int64_t c, auto part) HWY_ATTR {
    Floats sums[R];
    for (int r = 0; r < R; ++r) sums[r] = hn::Zero(FloatTag());
    for (int64_t j = 0; j < n; ++j) {
      if (!b.seen[j]) continue;
      const Floats value = load(v + j * v_row + c, part);
      for (int r = 0; r < R; ++r)
        sums[r] = hn::MulAdd(broadcast(b.scores + r * kFewKeys + j), value, sums[r]);
    }
    for (int r = 0; r < R; ++r) {
      float* to = b.out + r * b.pitch + c;
      store_floats(hn::Add(load_floats(to), sums[r]), to);
    }
  });
}

// Logits of one query from products: scale, biases, ALiBi, and minus infinity for what is not seen.
void few_logits(const AttentionInputs& in, const FewRow& row, int64_t first, int64_t n, float* scores) {
  const float scale = static_cast<float>(in.scale);
  const attention::Interval keys = attention::interval_of(in, row.place, row.query);
  float bias[kFewKeys];
  for (int64_t j = 0; j < n; ++j) scores[j] *= scale;
  for (const AttentionBias& b : in.bias) {
    if (b.data == nullptr) continue;
    const Matrix m = bias_matrix(b, row.place, in.sizes.num_leading, row.head);
    load_bias_row(m, row.query, first, n, bias);
    for (int64_t j = 0; j < n; ++j) scores[j] += bias[j];
  }
  if (in.slopes != nullptr) {
    const int64_t position = attention::q_position_of(in, row.place, row.query);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t distance = attention::k_position_of(in, row.place, first + j) - position;
      scores[j] += in.slopes[row.head] * static_cast<float>(distance);
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    const int64_t key = first + j;
    if (key < keys.begin || key >= keys.end || !attention::sees(in.mask, row.query, key)) scores[j] = kNone;
  }
  std::fill(scores + n, scores + kFewKeys, kNone);
}

// Scores become exp(score - largest); the row's sum and output so far shrink when its largest logit grew.
void few_softmax(FewRow& row, float* scores, float* out, int64_t pitch) {
  const FloatTag d;
  float largest = row.largest;
  for (int64_t j = 0; j < kFewKeys; ++j) largest = std::max(largest, scores[j]);
  for (int64_t j = 0; j < kFewKeys; ++j) largest = std::isnan(scores[j]) ? scores[j] : largest;
  const Floats shift = hn::Set(d, largest == kNone ? 0.0f : largest);
  if (largest != row.largest) {
    const Floats shrink = exp_of_negative(hn::Sub(hn::Set(d, row.largest), shift));
    row.sum *= hn::GetLane(shrink);
    row.largest = largest;
    for (int64_t c = 0; c < pitch; c += kLanes) store_floats(hn::Mul(load_floats(out + c), shrink), out + c);
  }
  Floats sum = hn::Zero(d);
  for (int64_t j = 0; j < kFewKeys; j += kLanes) {
    const Floats p = exp_of_negative(hn::Sub(load_floats(scores + j), shift));
    store_floats(p, scores + j);
    sum = hn::Add(sum, p);
  }
  row.sum += sum_lanes(sum);
}

// Rows of a block as they lie, or `packed` where a row's elements are not neighbours: the same bits for any
// strides.
HWY_INLINE Matrix few_rows(const Matrix& m, int64_t first, int64_t n, int64_t width, bool packed,
                           int64_t pitch, float* to) {
  const Matrix block{static_cast<char*>(m.data) + first * m.row * size_of(m.dtype), m.dtype, m.row, m.col};
  if (!packed) return block;
  pack_rows(block, n, width, n, pitch, to);
  return {to, DType::kF32, pitch, 1};
}

template <int R, class T>
void few_block(const AttentionInputs& in, const Matrix& k, const Matrix& v, int64_t first, int64_t n,
               const FewBuffers& b, std::span<FewRow> rows) {
  const T* keys = static_cast<const T*>(k.data);
  const T* values = static_cast<const T*>(v.data);
  few_products<R>(keys, k.row, values, v.row, n, in.sizes.width, b);
  std::fill(b.seen, b.seen + n, false);
  for (size_t r = 0; r < rows.size(); ++r) {
    float* scores = b.scores + static_cast<int64_t>(r) * kFewKeys;
    few_logits(in, rows[r], first, n, scores);
    few_softmax(rows[r], scores, b.out + static_cast<int64_t>(r) * b.pitch, b.pitch);
    for (int64_t j = 0; j < n; ++j) b.seen[j] = b.seen[j] || scores[j] != 0;
  }
  few_values<R>(values, v.row, n, in.sizes.width, b);
}

void write_row(const AttentionForward& p, const FewRow& row, float* out, int64_t pitch) {
  const AttentionSizes& s = p.in.sizes;
  const Floats inverse = hn::Set(FloatTag(), row.sum == 0 ? 0.0f : 1 / row.sum);
  for (int64_t c = 0; c < pitch; c += kLanes) store_floats(hn::Mul(load_floats(out + c), inverse), out + c);
  unpack_rows(out, pitch, 1, s.width, head_matrix(p.out, row.place, s.num_leading, row.head, row.query),
              false);
}

// One key/value head of one leading element, R query rows (those beyond rows.size() are zero).
template <int R>
void few_head(const AttentionForward& p, const FewBuffers& b, std::span<FewRow> rows) {
  const AttentionInputs& in = p.in;
  const int n = in.sizes.num_leading;
  std::fill(b.q, b.q + R * b.pitch, 0.0f);
  std::fill(b.out, b.out + R * b.pitch, 0.0f);
  std::fill(b.scores, b.scores + R * kFewKeys, 0.0f);
  Interval seen{in.sizes.keys, 0};
  for (size_t r = 0; r < rows.size(); ++r) {
    const Matrix q = head_matrix(in.q, rows[r].place, n, rows[r].head, rows[r].query);
    pack_rows(q, 1, in.sizes.width, 1, b.pitch, b.q + static_cast<int64_t>(r) * b.pitch);
    const Interval one = attention::interval_of(in, rows[r].place, rows[r].query);
    if (!one.empty()) seen = {std::min(seen.begin, one.begin), std::max(seen.end, one.end)};
  }
  const Matrix k = head_matrix(in.k, rows[0].place, n, rows[0].place.kv_head, 0);
  const Matrix v = head_matrix(in.v, rows[0].place, n, rows[0].place.kv_head, 0);
  const bool packed = k.col != 1 || v.col != 1;
  for (int64_t first = seen.begin / kFewKeys * kFewKeys; first < seen.end; first += kFewKeys) {
    const int64_t count = std::min(kFewKeys, seen.end - first);
    const Matrix keys = few_rows(k, first, count, in.sizes.width, packed, b.pitch, b.k);
    const Matrix values = few_rows(v, first, count, in.sizes.width, packed, b.pitch, b.v);
    dispatch_narrow(keys.dtype,
                    [&]<class T>() HWY_ATTR { few_block<R, T>(in, keys, values, first, count, b, rows); });
  }
  for (size_t r = 0; r < rows.size(); ++r)
    write_row(p, rows[r], b.out + static_cast<int64_t>(r) * b.pitch, b.pitch);
}

void few_unit(const AttentionForward& p, const FewBuffers& b, std::span<FewRow> rows) {
  if (rows.size() <= 1) return few_head<1>(p, b, rows);
  if (rows.size() <= 2) return few_head<2>(p, b, rows);
  if (rows.size() <= 4) return few_head<4>(p, b, rows);
  few_head<attention::kFewRows>(p, b, rows);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(few_unit);

namespace attention {
namespace {

int64_t units_of(const AttentionSizes& sizes) { return leading_count(sizes) * sizes.kv_heads; }

}  // namespace

Status few_supports(const AttentionForward& params) {
  const AttentionSizes& s = params.in.sizes;
  if (params.statistics != nullptr)
    return Status::unsupported("statistics are those of the tiles' order of sums");
  if (s.queries >= s.keys || s.queries * (s.heads / s.kv_heads) > kFewRows)
    return Status::unsupported("expected fewer queries than keys, at most 8 for a key/value head");
  return simd_supports_forward(params);
}

int64_t few_workspace(const AttentionForward& params) {
  const int64_t slots = std::min(units_of(params.in.sizes), std::max<int64_t>(params.num_threads, 1));
  return slots * FewBuffers(params.in.sizes, nullptr).floats * static_cast<int64_t>(sizeof(float));
}

Status few_forward(const AttentionForward& params, const ParallelFor& parallel_for) {
  const AttentionSizes& s = params.in.sizes;
  const int64_t floats = FewBuffers(s, nullptr).floats, group = s.heads / s.kv_heads;
  for_units(units_of(s), params.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    const FewBuffers buffers(s, static_cast<float*>(params.workspace) + slot * floats);
    std::array<FewRow, kFewRows> rows;
    Place place = place_of(s, unit / s.kv_heads);
    place.kv_head = unit % s.kv_heads;
    int64_t count = 0;
    for (int64_t head = place.kv_head * group; head < (place.kv_head + 1) * group; ++head) {
      for (int64_t i = 0; i < s.queries; ++i) {
        rows[static_cast<size_t>(count++)] = {place, head, i};
      }
    }
    HWY_DYNAMIC_DISPATCH(few_unit)(params, buffers, std::span(rows).first(static_cast<size_t>(count)));
  });
  return {};
}

}  // namespace attention
}  // namespace axial::kernels
#endif
