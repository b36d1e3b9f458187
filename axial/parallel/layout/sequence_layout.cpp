// SPDX-License-Identifier: Apache-2.0
// Rows of packed records -> tensors of a batch: shift over the whole row first, cut second.
#include "axial/parallel/layout/sequence_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "sequence_layout";

// A row over its whole padded length, before any cut.
struct FullRow {
  std::vector<int64_t> tokens, labels, positions;
  std::vector<int64_t> record_starts;  // where the record or padding of each position begins
  std::vector<bool> starts;            // a record or the padding begins here
};

void check_row(const PackedRow& row, size_t index, int64_t length) {
  const auto used = static_cast<int64_t>(row.tokens.size());
  AXIAL_CHECK(used <= length, kOp, "tokens of row {}; expected at most {}, got {}", index, length, used);
  AXIAL_CHECK(row.record_starts.empty() == row.tokens.empty(), kOp,
              "record starts of row {}; expected some exactly when there are tokens, got {} for {} tokens",
              index, row.record_starts.size(), used);
  for (size_t i = 0; i < row.record_starts.size(); ++i) {
    const int64_t start = row.record_starts[i];
    const bool ok = i == 0 ? start == 0 : row.record_starts[i - 1] < start && start < used;
    AXIAL_CHECK(ok, kOp, "record start {} of row {}; expected ascending places from 0 below {}, got {}", i,
                index, used, start);
  }
  AXIAL_CHECK(row.next_token >= -1, kOp, "next token of row {}; expected a token or -1, got {}", index,
              row.next_token);
}

FullRow lay_out(const PackedRow& row, int64_t length, int64_t pad_token) {
  const size_t n = static_cast<size_t>(length);
  const size_t used = row.tokens.size();
  FullRow full{std::vector<int64_t>(n, pad_token), std::vector<int64_t>(n, kIgnoredLabel),
               std::vector<int64_t>(n), std::vector<int64_t>(n), std::vector<bool>(n, false)};
  std::copy(row.tokens.begin(), row.tokens.end(), full.tokens.begin());
  for (const int64_t start : row.record_starts) full.starts[static_cast<size_t>(start)] = true;
  if (used < n) full.starts[used] = true;
  for (size_t i = 0; i + 1 < used; ++i) {
    if (!full.starts[i + 1]) full.labels[i] = full.tokens[i + 1];
  }
  if (used > 0 && row.next_token >= 0) full.labels[used - 1] = row.next_token;
  for (size_t i = 0; i < n; ++i) {
    full.record_starts[i] = full.starts[i] ? static_cast<int64_t>(i) : full.record_starts[i - 1];
    full.positions[i] = static_cast<int64_t>(i) - full.record_starts[i];
  }
  return full;
}

// The part of a rank's local order [begin, end), its intervals one after the other.
std::vector<Interval> part_of(const std::vector<Interval>& intervals, int64_t begin, int64_t end) {
  std::vector<Interval> part;
  int64_t before = 0;
  for (const Interval& i : intervals) {
    const int64_t from = std::max(begin, before), to = std::min(end, before + i.size());
    if (from < to) part.push_back({i.begin + from - before, i.begin + to - before});
    before += i.size();
  }
  return part;
}

at::Tensor places_of(const std::vector<Interval>& intervals) {
  std::vector<at::Tensor> parts;
  for (const Interval& i : intervals) parts.push_back(at::arange(i.begin, i.end, at::kLong));
  return parts.empty() ? at::empty({0}, at::kLong) : at::cat(parts);
}

// Every ring rank's local order, cut over its ulysses ranks.
DimLayout split_again(const DimLayout& ring, int64_t ulysses) {
  std::vector<std::vector<Interval>> per_rank;
  for (int64_t r = 0; r < ring.num_ranks(); ++r) {
    const DimLayout local = DimLayout::contiguous(ring.local_size(r), ulysses);
    for (int64_t u = 0; u < ulysses; ++u) {
      const std::vector<Interval>& owned = local.owned(u);
      per_rank.push_back(owned.empty() ? std::vector<Interval>{}
                                       : part_of(ring.owned(r), owned[0].begin, owned[0].end));
    }
  }
  return DimLayout::custom(ring.size(), std::move(per_rank));
}

}  // namespace

SequenceLayout::SequenceLayout(DimLayout dim, int64_t rank)
    : dim_(std::move(dim)), rank_(rank), ring_(dim_), ring_rank_(rank) {
  AXIAL_CHECK(dim_.logical_size() >= 1, kOp, "row length; expected at least 1, got {}", dim_.logical_size());
  AXIAL_CHECK(!dim_.has_halo(), kOp, "layout of seq; expected no halo, got one");
  AXIAL_CHECK(0 <= rank_ && rank_ < dim_.num_ranks(), kOp, "rank; expected one of [0, {}), got {}",
              dim_.num_ranks(), rank_);
  ulysses_sizes_ = {dim_.local_size(rank_)};
}

SequenceLayout::SequenceLayout(DimLayout ring, int64_t ring_rank, int64_t ulysses, int64_t ulysses_rank)
    : SequenceLayout(split_again(ring, ulysses), ring_rank * ulysses + ulysses_rank) {
  ring_ = std::move(ring);
  ring_rank_ = ring_rank;
  ulysses_sizes_.clear();
  for (int64_t u = 0; u < ulysses; ++u) {
    ulysses_sizes_.push_back(dim_.local_size(ring_rank * ulysses + u));
  }
}

SequenceLayout SequenceLayout::over(const Mesh& mesh, int64_t length) {
  const Axes axes = mesh.batch_axes();
  const auto has = [&](const char* name) { return std::find(axes.begin(), axes.end(), name) != axes.end(); };
  const int64_t ring = has("ring") ? mesh.degree("ring") : 1;
  const int64_t ulysses = has("ulysses") ? mesh.degree("ulysses") : 1;
  return {DimLayout::zigzag(length, ring), has("ring") ? mesh.coordinate("ring") : 0, ulysses,
          has("ulysses") ? mesh.coordinate("ulysses") : 0};
}

SequenceLayout SequenceLayout::whole(int64_t length) { return SequenceLayout(DimLayout::whole(length)); }

at::Tensor SequenceLayout::row_positions() const { return places_of(dim_.owned(rank_)); }

at::Tensor SequenceLayout::attended_positions() const { return places_of(ring_.owned(ring_rank_)); }

NamedTensors SequenceLayout::make_batch(const std::vector<PackedRow>& rows, int64_t pad_token) const {
  const auto num_rows = static_cast<int64_t>(rows.size());
  const int64_t width = local_length();
  const auto table = [&] { return at::empty({num_rows, width}, at::kLong); };
  at::Tensor tokens = table(), labels = table(), positions = table();
  at::Tensor sample_ids = at::empty({num_rows}, at::kLong);
  at::Tensor record_starts = at::empty({num_rows, ring_.local_size(ring_rank_)}, at::kLong);
  int64_t* start = record_starts.mutable_data_ptr<int64_t>();
  std::vector<int64_t> borders, later_records;
  int64_t at_flat = 0;
  const auto put = [&](const std::vector<int64_t>& from, const Interval& i, at::Tensor& to) {
    std::copy(from.begin() + i.begin, from.begin() + i.end, to.mutable_data_ptr<int64_t>() + at_flat);
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    check_row(rows[r], r, length());
    const FullRow full = lay_out(rows[r], dim_.size(), pad_token);
    sample_ids.mutable_data_ptr<int64_t>()[r] = rows[r].sample_id;
    for (size_t i = 1; i < rows[r].record_starts.size(); ++i) {
      later_records.push_back(static_cast<int64_t>(r) * length() + rows[r].record_starts[i]);
    }
    for (const Interval& i : ring_.owned(ring_rank_)) {
      start = std::copy(full.record_starts.begin() + i.begin, full.record_starts.begin() + i.end, start);
    }
    for (const Interval& i : dim_.owned(rank_)) {
      put(full.tokens, i, tokens);
      put(full.labels, i, labels);
      put(full.positions, i, positions);
      for (int64_t g = i.begin; g < i.end; ++g, ++at_flat) {
        if (g == i.begin || full.starts[static_cast<size_t>(g)]) borders.push_back(at_flat);
      }
    }
  }
  borders.push_back(at_flat);
  return {{"tokens", tokens},
          {"labels", labels},
          {"positions", positions},
          {"segments", at::tensor(borders, at::kLong)},
          {"sample_ids", sample_ids},
          {"row_positions", row_positions()},
          {"record_starts", record_starts},
          {"later_records", at::tensor(later_records, at::kLong)}};
}

NamedTensors SequenceLayout::describe_batch(int64_t rows, int64_t records_per_row) const {
  AXIAL_CHECK(rows >= 0 && records_per_row >= 1, kOp,
              "rows and records; expected none below 0 and 1, got {} and {}", rows, records_per_row);
  const auto shape = [](const std::vector<int64_t>& sizes) {
    return at::empty(sizes, at::TensorOptions(at::kMeta).dtype(at::kLong));
  };
  const int64_t width = local_length();
  const auto pieces = static_cast<int64_t>(dim_.owned(rank_).size());
  return {{"tokens", shape({rows, width})},
          {"labels", shape({rows, width})},
          {"positions", shape({rows, width})},
          {"segments", shape({rows * (pieces + records_per_row - 1) + 1})},
          {"sample_ids", shape({rows})},
          {"row_positions", shape({width})},
          {"record_starts", shape({rows, ring_.local_size(ring_rank_)})},
          {"later_records", shape({rows * (records_per_row - 1)})}};
}

int64_t count_labels(const std::vector<PackedRow>& rows) {
  int64_t count = 0;
  for (const PackedRow& row : rows) {
    if (row.tokens.empty()) continue;
    count +=
        static_cast<int64_t>(row.tokens.size() - row.record_starts.size()) + (row.next_token >= 0 ? 1 : 0);
  }
  return count;
}

}  // namespace axial::parallel
