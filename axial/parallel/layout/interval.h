// SPDX-License-Identifier: Apache-2.0
// Ranges of indices along a dim: the words in which layouts say who holds what.
#pragma once

#include <cstdint>
#include <vector>

namespace axial::parallel {

/// Half-open range of indices.
struct Interval {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const Interval&, const Interval&) = default;
};

/// Indices of one dim: ascending, disjoint intervals.
using Intervals = std::vector<Interval>;

/// Without the empty ones, those that touch joined: equal sets of indices compare equal.
Intervals normalised(const Intervals& intervals);
/// Number of indices.
int64_t total_size(const Intervals& intervals);
/// Those inside `range`.
Intervals intersection(const Intervals& intervals, Interval range);

}  // namespace axial::parallel
