// SPDX-License-Identifier: Apache-2.0
// Which keys a query sees: its interval and the block mask. Used by every implementation.
#pragma once

#include <algorithm>

#include "axial/kernels/attention/plan.h"

namespace axial::kernels::attention {

/// [begin, end)
struct Interval {
  int64_t begin = 0;
  int64_t end = 0;
  bool empty() const { return begin >= end; }
};

/// The keys of [0, J) that a query's key_begin and key_end leave.
inline Interval interval_of(const AttentionInputs& in, const Place& place, int64_t query) {
  const auto value = [&](const AttentionIndex& index, int64_t otherwise) {
    if (index.data == nullptr) return otherwise;
    return index.data[leading_offset(index.leading, place, in.sizes.num_leading) + query * index.item];
  };
  const int64_t end = std::clamp<int64_t>(value(in.key_end, in.sizes.keys), 0, in.sizes.keys);
  return {std::clamp<int64_t>(value(in.key_begin, 0), 0, end), end};
}

/// The keys that some of the queries see.
inline Interval keys_seen(const AttentionInputs& in, const Place& place, const Interval& queries) {
  if (in.key_begin.data == nullptr && in.key_end.data == nullptr) return {0, in.sizes.keys};
  Interval seen{in.sizes.keys, 0};
  for (int64_t i = queries.begin; i < queries.end; ++i) {
    const Interval one = interval_of(in, place, i);
    if (one.empty()) continue;
    seen = {std::min(seen.begin, one.begin), std::max(seen.end, one.end)};
  }
  return seen.empty() ? Interval{0, 0} : seen;
}

inline int64_t q_position_of(const AttentionInputs& in, const Place& place, int64_t query) {
  if (in.q_positions.data == nullptr) return query + in.sizes.keys - in.sizes.queries;
  return in.q_positions.data[leading_offset(in.q_positions.leading, place, in.sizes.num_leading) +
                             query * in.q_positions.item];
}

inline int64_t k_position_of(const AttentionInputs& in, const Place& place, int64_t key) {
  if (in.k_positions.data == nullptr) return key;
  return in.k_positions
      .data[leading_offset(in.k_positions.leading, place, in.sizes.num_leading) + key * in.k_positions.item];
}

/// Whether the mask lets a block of queries see a block of keys.
inline bool sees_block(const AttentionBlockMask& mask, int64_t query_block, int64_t key_block) {
  return std::binary_search(mask.columns + mask.row_begin[query_block],
                            mask.columns + mask.row_begin[query_block + 1], key_block);
}

inline bool sees(const AttentionBlockMask& mask, int64_t query, int64_t key) {
  return mask.query_block == 0 || sees_block(mask, query / mask.query_block, key / mask.key_block);
}

/// Which of the at most 64 keys of a block at least one query sees, a bit per key.
inline uint64_t seen_bits(const AttentionInputs& in, const Place& place, const Interval& queries,
                          const Interval& keys) {
  const auto bits = [&](int64_t begin, int64_t end) {
    const auto below = [](int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
    return below(end - keys.begin) & ~below(begin - keys.begin);
  };
  const bool same = in.key_begin.data == nullptr && in.key_end.data == nullptr;  // for all queries of a block
  uint64_t seen = 0;
  // From the last query: of causal ones it sees most.
  for (int64_t i = queries.end - 1; i >= queries.begin && seen != bits(keys.begin, keys.end); --i) {
    const Interval all = interval_of(in, place, i);
    const Interval own{std::max(all.begin, keys.begin), std::min(all.end, keys.end)};
    if (own.empty()) continue;
    if (in.mask.query_block == 0) {
      seen |= bits(own.begin, own.end);
      continue;
    }
    const int64_t size = in.mask.key_block, row = i / in.mask.query_block;
    for (int64_t block = own.begin / size; block * size < own.end; ++block) {
      if (!sees_block(in.mask, row, block)) continue;
      seen |= bits(std::max(own.begin, block * size), std::min(own.end, (block + 1) * size));
    }
    if (same) i = row * in.mask.query_block;
  }
  return seen;
}

/// How much of a rectangle of queries and keys the mask lets through.
enum class Cover { kNone, kSome, kAll };

inline Cover cover_of(const AttentionBlockMask& mask, const Interval& queries, const Interval& keys) {
  if (mask.query_block == 0) return Cover::kAll;
  bool some = false, all = true;
  for (int64_t q = queries.begin / mask.query_block; q * mask.query_block < queries.end; ++q) {
    for (int64_t k = keys.begin / mask.key_block; k * mask.key_block < keys.end; ++k) {
      const bool seen = sees_block(mask, q, k);
      some = some || seen;
      all = all && seen;
    }
  }
  return !some ? Cover::kNone : all ? Cover::kAll : Cover::kSome;
}

}  // namespace axial::kernels::attention
