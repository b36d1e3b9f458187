// SPDX-License-Identifier: Apache-2.0
// Which rows of a step a data shard reads: one contiguous block of equal size per shard.
#pragma once

#include <cstdint>

#include "axial/core/check/check.h"

namespace axial::data {

/// Rows [first, first + count) of a source's endless stream.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
  friend bool operator==(const RowRange&, const RowRange&) = default;
};

/// The part of `rows` that shard `shard` of `num_shards` reads: blocks in shard order, disjoint and complete.
/// Throws ValueError when the rows do not divide evenly: unequal shards would weight gradients wrongly.
inline RowRange shard_of(const RowRange& rows, int64_t shard, int64_t num_shards) {
  AXIAL_CHECK(num_shards > 0 && shard >= 0 && shard < num_shards, "shard_of",
              "shard; expected 0 to {}, got {}", num_shards - 1, shard);
  AXIAL_CHECK(rows.count % num_shards == 0, "shard_of",
              "rows per step; expected a multiple of the {} data shards, got {}", num_shards, rows.count);
  const int64_t share = rows.count / num_shards;
  return {rows.first + shard * share, share};
}

}  // namespace axial::data
