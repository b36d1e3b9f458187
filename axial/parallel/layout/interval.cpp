// SPDX-License-Identifier: Apache-2.0
// Small set operations on ascending intervals.
#include "axial/parallel/layout/interval.h"

#include <algorithm>

namespace axial::parallel {

Intervals normalised(const Intervals& intervals) {
  Intervals out;
  for (const Interval& interval : intervals) {
    if (interval.size() == 0) continue;
    if (!out.empty() && out.back().end == interval.begin) {
      out.back().end = interval.end;
    } else {
      out.push_back(interval);
    }
  }
  return out;
}

int64_t total_size(const Intervals& intervals) {
  int64_t size = 0;
  for (const Interval& interval : intervals) size += interval.size();
  return size;
}

Intervals intersection(const Intervals& intervals, Interval range) {
  Intervals out;
  for (const Interval& interval : intervals) {
    const Interval common{std::max(interval.begin, range.begin), std::min(interval.end, range.end)};
    if (common.begin < common.end) out.push_back(common);
  }
  return out;
}

}  // namespace axial::parallel
