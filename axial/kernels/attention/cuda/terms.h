// SPDX-License-Identifier: Apache-2.0
// What is added to the products of attention's CUDA kernels to make logits, and which keys a query sees.
// Included by the kernels of this folder.
#pragma once

#include "axial/kernels/attention/plan.h"
#include "axial/kernels/device/device.h"
#include "axial/kernels/device/tile_map.h"

namespace axial::kernels::attention::cuda {

using device::load_as_float;

inline constexpr int kTile = 64;  // at most: wide heads take fewer keys at a time
inline constexpr int kThreads = 128;
inline constexpr float kLog2e = 1.44269504088896341f;

AXIAL_DEVICE const void* advance(const void* data, DType dtype, int64_t elements) {
  return static_cast<const char*>(data) + elements * (dtype == DType::kF32   ? 4
                                                      : dtype == DType::kF64 ? 8
                                                                             : 2);
}

AXIAL_DEVICE const int64_t* index_of(const AttentionIndex& index, const Place& place, int num_leading) {
  return index.data == nullptr ? nullptr : index.data + leading_offset(index.leading, place, num_leading);
}

/// Where the terms of the logits of one head begin. Strides stay with the parameters: registers are few.
struct HeadTerms {
  const void* bias[2];
  const int64_t *q_positions, *k_positions;
};

AXIAL_DEVICE HeadTerms terms_of(const AttentionInputs& in, const Place& place, int64_t head) {
  HeadTerms t;
  const int n = in.sizes.num_leading;
  AXIAL_UNROLL
  for (int b = 0; b < 2; ++b) {
    const AttentionBias& bias = in.bias[b];
    const int64_t at = leading_offset(bias.leading, place, n) + head * bias.head;
    t.bias[b] = bias.data == nullptr ? nullptr : advance(bias.data, bias.dtype, at);
  }
  t.q_positions = index_of(in.q_positions, place, n);
  t.k_positions = index_of(in.k_positions, place, n);
  return t;
}

/// Accumulators of a tile, 8 kColumns columns, whose rows are queries and whose columns are keys, or where
/// kTurned the other way round. `row` is that of this lane's first two elements, `col` its first column, both
/// of the whole matrix.
template <class T, bool kTurned, int kColumns, class Sees>
AXIAL_DEVICE void add_bias(float (&s)[kColumns][4], const AttentionBias& bias, const void* data, int64_t row,
                           int64_t col, const Sees& sees) {
  constexpr DType kType = std::is_same_v<T, float>      ? DType::kF32
                          : std::is_same_v<T, BFloat16> ? DType::kBF16
                                                        : DType::kF16;
  const int64_t row_step = kTurned ? bias.key : bias.query, col_step = kTurned ? bias.query : bias.key;
  AXIAL_UNROLL
  for (int r = 0; r < 2; ++r) {
    int64_t at = (row + 8 * r) * row_step + col * col_step;
    AXIAL_UNROLL
    for (int n = 0; n < kColumns; ++n, at += 8 * col_step) {
      AXIAL_UNROLL
      for (int c = 0; c < 2; ++c) {
        if (!sees(r, n, c)) continue;
        const float value = load_as_float(data, kType, at + c * col_step);
        s[n][2 * r + c] += value <= device::lowest_of(kType) ? device::minus_infinity() : value;
      }
    }
  }
}

/// slope * (position of the key - position of the query)
template <bool kTurned, int kColumns, class Sees>
AXIAL_DEVICE void add_slope(float (&s)[kColumns][4], const AttentionInputs& in, const HeadTerms& t,
                            float slope, int64_t row, int64_t col, const Sees& sees) {
  AXIAL_UNROLL
  for (int r = 0; r < 2; ++r) {
    AXIAL_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      AXIAL_UNROLL
      for (int c = 0; c < 2; ++c) {
        if (!sees(r, n, c)) continue;
        const int64_t down = row + 8 * r, across = col + 8 * n + c;
        const int64_t query = kTurned ? across : down, key = kTurned ? down : across;
        const int64_t from = t.q_positions == nullptr ? query + in.sizes.keys - in.sizes.queries
                                                      : t.q_positions[query * in.q_positions.item];
        const int64_t to = t.k_positions == nullptr ? key : t.k_positions[key * in.k_positions.item];
        s[n][2 * r + c] += device::product(slope, static_cast<float>(to - from));
      }
    }
  }
}

/// Products become logits: scaled, with biases and slopes, minus infinity where `seen` (of the lane's two
/// rows) has no bit.
template <bool kTurned, int kColumns>
AXIAL_DEVICE void finish_logits(float (&s)[kColumns][4], const AttentionInputs& in, const HeadTerms& t,
                                int64_t head, int64_t row, int64_t col, const uint32_t (&seen)[2]) {
  const float scale = static_cast<float>(in.scale);
  const auto sees = [&](int r, int n, int c) { return (seen[r] >> (2 * n + c) & 1) != 0; };
  AXIAL_UNROLL
  for (int n = 0; n < kColumns; ++n) {
    AXIAL_UNROLL
    for (int e = 0; e < 4; ++e)
      s[n][e] = sees(e / 2, n, e % 2) ? device::product(s[n][e], scale) : device::minus_infinity();
  }
  AXIAL_UNROLL
  for (int b = 0; b < 2; ++b) {
    if (t.bias[b] == nullptr) continue;
    const AttentionBias& bias = in.bias[b];
    if (bias.dtype == DType::kF32) {
      add_bias<float, kTurned>(s, bias, t.bias[b], row, col, sees);
    } else if (bias.dtype == DType::kBF16) {
      add_bias<BFloat16, kTurned>(s, bias, t.bias[b], row, col, sees);
    } else {
      add_bias<Float16, kTurned>(s, bias, t.bias[b], row, col, sees);
    }
  }
  if (in.slopes != nullptr) add_slope<kTurned>(s, in, t, in.slopes[head], row, col, sees);
}

/// The keys that the queries of one leading element see: intervals of the element, null for all.
struct Sight {
  const int64_t *begin, *end;
};

AXIAL_DEVICE Sight sight_of(const AttentionInputs& in, const Place& place) {
  const int n = in.sizes.num_leading;
  return {index_of(in.key_begin, place, n), index_of(in.key_end, place, n)};
}

/// Whether every query sees every key.
AXIAL_DEVICE bool sees_all(const AttentionInputs& in) {
  return in.key_begin.data == nullptr && in.key_end.data == nullptr && in.mask.query_block == 0;
}

AXIAL_DEVICE int64_t clamped(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

/// Bits [begin, end) of kTile, given relative to the tile.
AXIAL_DEVICE uint64_t bits_between(int64_t begin, int64_t end) {
  const int64_t low = clamped(begin, 0, kTile), high = clamped(end, low, kTile);
  const uint64_t below_high = high == kTile ? ~uint64_t{0} : (uint64_t{1} << high) - 1;
  const uint64_t below_low = low == kTile ? ~uint64_t{0} : (uint64_t{1} << low) - 1;
  return below_high & ~below_low;
}

/// Which keys of [first, first + count) a query sees, a bit each; count is at most kTile.
AXIAL_DEVICE uint64_t seen_by(const AttentionInputs& in, const Sight& s, int64_t query, int64_t first,
                              int64_t count) {
  const int64_t keys = in.sizes.keys < first + count ? in.sizes.keys : first + count;
  const int64_t end = s.end == nullptr ? keys : clamped(s.end[query * in.key_end.item], 0, keys);
  const int64_t begin = s.begin == nullptr ? 0 : clamped(s.begin[query * in.key_begin.item], 0, end);
  const uint64_t interval = bits_between(begin - first, end - first);
  const AttentionBlockMask& mask = in.mask;
  if (mask.query_block == 0 || interval == 0) return interval;
  const int64_t row = query / mask.query_block, size = mask.key_block;
  int64_t low = mask.row_begin[row], high = mask.row_begin[row + 1];
  const int64_t last = high, wanted = first / size;  // the first block that may reach into the tile
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (mask.columns[middle] < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  uint64_t seen = 0;
  for (; low < last && mask.columns[low] * size < first + kTile; ++low) {
    const int64_t block = mask.columns[low] * size - first;
    seen |= bits_between(block, block + size);
  }
  return seen & interval;
}

/// Of the columns that a lane holds of a row of accumulators, as bits 2 n + c of column c of tile n: those
/// whose bits are in `seen`.
AXIAL_DEVICE uint32_t seen_of_lane(uint64_t seen, int lane) {
  seen >>= device::Accumulator::col(lane, 0);
  uint32_t bits = 0;
  AXIAL_UNROLL
  for (int n = 0; n < kTile / 8; ++n) bits |= static_cast<uint32_t>(seen >> (8 * n) & 3) << (2 * n);
  return bits;
}

}  // namespace axial::kernels::attention::cuda
