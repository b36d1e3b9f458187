// SPDX-License-Identifier: Apache-2.0
// Head arithmetic: even parts of the query heads, and the key/value heads that follow from them.
#include "axial/parallel/tensor/heads.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/parallel/layout/dim_layout.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "tensor";

// What query heads read: each head once where all are read equally often, as grouped attention wants them.
std::vector<int64_t> heads_read(Interval query, int64_t group) {
  std::vector<int64_t> each, distinct, times;
  for (int64_t h = query.begin; h < query.end; ++h) {
    each.push_back(h / group);
    if (distinct.empty() || distinct.back() != each.back()) {
      distinct.push_back(each.back());
      times.push_back(0);
    }
    ++times.back();
  }
  const bool alike = std::all_of(times.begin(), times.end(), [&](int64_t n) { return n == times[0]; });
  return alike ? distinct : each;
}

Interval only(const Intervals& intervals, Interval range, const Parameter& projection) {
  const Intervals inside = intersection(intervals, range);
  AXIAL_CHECK(inside.size() == 1, kOp,
              "rows [{}, {}) of '{}'; expected one interval of them to be held, got {}", range.begin,
              range.end, projection.spec.name, inside.size());
  return inside[0];
}

Interval in_heads(Interval rows, int64_t first, int64_t width) {
  return {(rows.begin - first) / width, (rows.end - first) / width};
}

}  // namespace

RankHeads RankHeads::of_rank(const HeadCounts& counts, int64_t degree, int64_t rank) {
  AXIAL_CHECK(degree <= counts.query, kOp, "query heads; expected at least one per rank of {}, got {}",
              degree, counts.query);
  RankHeads heads;
  heads.query = DimLayout::contiguous(counts.query, degree).owned(rank)[0];
  const bool cut = counts.key_value % degree == 0;
  heads.key_value =
      cut ? DimLayout::contiguous(counts.key_value, degree).owned(rank)[0] : Interval{0, counts.key_value};
  heads.reads = heads_read(heads.query, counts.query / counts.key_value);
  return heads;
}

RankHeads RankHeads::held_by(const Parameter& projection, const HeadCounts& counts) {
  const Intervals& rows = projection.holding.slices[0];
  const int64_t keys = counts.query * counts.width, values = keys + counts.key_value * counts.width;
  RankHeads heads;
  heads.query = in_heads(only(rows, {0, keys}, projection), 0, counts.width);
  heads.key_value = in_heads(only(rows, {keys, values}, projection), keys, counts.width);
  heads.reads = heads_read(heads.query, counts.query / counts.key_value);
  return heads;
}

Intervals RankHeads::projection_rows(const HeadCounts& counts) const {
  const auto rows = [&](Interval heads, int64_t first_head) {
    return Interval{(first_head + heads.begin) * counts.width, (first_head + heads.end) * counts.width};
  };
  return {rows(query, 0), rows(key_value, counts.query), rows(key_value, counts.query + counts.key_value)};
}

Interval RankHeads::output_columns(const HeadCounts& counts) const {
  return {query.begin * counts.width, query.end * counts.width};
}

bool RankHeads::replicates_key_value(const HeadCounts& counts) const {
  return key_value.size() == counts.key_value && query.size() < counts.query;
}

at::Tensor projected_rows(const at::Tensor& fused, const RankHeads& heads, const HeadCounts& counts,
                          const TensorStream& stream) {
  if (!heads.replicates_key_value(counts)) return fused;
  const int64_t queries = heads.num_query() * counts.width, keys = counts.key_value * counts.width;
  // Every rank's query heads read other key/value heads: only the sum of the ranks' gradients is theirs.
  const at::Tensor shared = copy_to(fused.narrow(0, queries, 2 * keys), stream.ranks(), {kTensorAxis});
  std::vector<at::Tensor> rows{fused.narrow(0, 0, queries)};
  for (const int64_t first : {int64_t{0}, keys}) {
    for (const int64_t head : heads.reads) {
      rows.push_back(shared.narrow(0, first + head * counts.width, counts.width));
    }
  }
  return at::cat(rows, 0);
}

}  // namespace axial::parallel
