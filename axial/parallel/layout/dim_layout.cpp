// SPDX-License-Identifier: Apache-2.0
// The splits behind DimLayout and the tensor cuts that follow from them.
#include "axial/parallel/layout/dim_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "dim_layout";

// Borders of `count` chunks of [0, size) whose sizes differ by at most one, the larger first.
std::vector<Interval> even_chunks(int64_t size, int64_t count) {
  std::vector<Interval> chunks;
  int64_t begin = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = begin + size / count + (i < size % count ? 1 : 0);
    chunks.push_back({begin, end});
    begin = end;
  }
  return chunks;
}

void check_counts(int64_t size, int64_t num_ranks) {
  AXIAL_CHECK(size >= 0, kOp, "size of the dim; expected at least 0, got {}", size);
  AXIAL_CHECK(num_ranks >= 1, kOp, "number of ranks; expected at least 1, got {}", num_ranks);
}

}  // namespace

DimLayout DimLayout::whole(int64_t size) { return contiguous(size, 1); }

DimLayout DimLayout::contiguous(int64_t size, int64_t num_ranks) {
  check_counts(size, num_ranks);
  std::vector<std::vector<Interval>> owned;
  for (const Interval& chunk : even_chunks(size, num_ranks)) owned.push_back({chunk});
  return {size, std::move(owned)};
}

DimLayout DimLayout::blocks(const std::vector<int64_t>& sizes) {
  check_counts(0, static_cast<int64_t>(sizes.size()));
  std::vector<std::vector<Interval>> owned;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    AXIAL_CHECK(size >= 0, kOp, "size of a block; expected at least 0, got {}", size);
    owned.push_back({{begin, begin + size}});
    begin += size;
  }
  return {begin, std::move(owned)};
}

DimLayout DimLayout::zigzag(int64_t size, int64_t num_ranks) {
  check_counts(size, num_ranks);
  const std::vector<Interval> chunks = even_chunks(size, 2 * num_ranks);
  std::vector<std::vector<Interval>> owned;
  for (int64_t r = 0; r < num_ranks; ++r) {
    owned.push_back({chunks[static_cast<size_t>(r)], chunks[static_cast<size_t>(2 * num_ranks - 1 - r)]});
  }
  return {size, std::move(owned)};
}

DimLayout DimLayout::custom(int64_t size, std::vector<std::vector<Interval>> per_rank) {
  check_counts(size, static_cast<int64_t>(per_rank.size()));
  return {size, std::move(per_rank)};
}

DimLayout::DimLayout(int64_t size, std::vector<std::vector<Interval>> owned)
    : size_(size), logical_size_(size) {
  for (size_t r = 0; r < owned.size(); ++r) {
    int64_t last = 0;
    for (const Interval& i : owned[r]) {
      AXIAL_CHECK(i.begin >= last && i.begin <= i.end && i.end <= size, kOp,
                  "intervals of rank {}; expected ascending ones inside [0, {}), got [{}, {}) after {}", r,
                  size, i.begin, i.end, last);
      last = i.end;
    }
    owned_.push_back(normalised(owned[r]));
  }
  index_pieces();
  int64_t next = 0;
  for (const Piece& piece : pieces_) {
    AXIAL_CHECK(piece.interval.begin == next, kOp,
                "split of [0, {}); expected one owner for every index, but index {} has {}", size,
                std::min(next, piece.interval.begin), piece.interval.begin > next ? "none" : "two");
    next = piece.interval.end;
  }
  AXIAL_CHECK(next == size, kOp,
              "split of [0, {}); expected one owner for every index, but index {} has none", size, next);
}

void DimLayout::index_pieces() {
  pieces_.clear();
  for (int64_t r = 0; r < num_ranks(); ++r) {
    int64_t local = 0;
    for (const Interval& i : owned(r)) {
      const int64_t before = std::min(halo_before_, i.begin);
      pieces_.push_back({i, r, local + before});
      local += before + i.size() + std::min(halo_after_, size_ - i.end);
    }
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.interval.begin < b.interval.begin; });
}

DimLayout DimLayout::with_halo(int64_t before, int64_t after) const {
  AXIAL_CHECK(before >= 0 && after >= 0, kOp, "halo; expected at least 0 on both sides, got {} and {}",
              before, after);
  DimLayout out = *this;
  out.halo_before_ = before;
  out.halo_after_ = after;
  out.index_pieces();
  return out;
}

DimLayout DimLayout::with_logical_size(int64_t logical_size) const {
  AXIAL_CHECK(0 <= logical_size && logical_size <= size_, kOp, "logical size; expected at most {}, got {}",
              size_, logical_size);
  DimLayout out = *this;
  out.logical_size_ = logical_size;
  return out;
}

const std::vector<Interval>& DimLayout::owned(int64_t rank) const {
  AXIAL_CHECK(0 <= rank && rank < num_ranks(), kOp, "rank; expected one of [0, {}), got {}", num_ranks(),
              rank);
  return owned_[static_cast<size_t>(rank)];
}

std::vector<Interval> DimLayout::held(int64_t rank) const {
  std::vector<Interval> out;
  for (const Interval& i : owned(rank)) {
    out.push_back({std::max<int64_t>(0, i.begin - halo_before_), std::min(size_, i.end + halo_after_)});
  }
  return out;
}

int64_t DimLayout::local_size(int64_t rank) const {
  int64_t size = 0;
  for (const Interval& i : held(rank)) size += i.size();
  return size;
}

const DimLayout::Piece& DimLayout::piece_of(int64_t global) const {
  AXIAL_CHECK(0 <= global && global < size_, kOp, "global index; expected one of [0, {}), got {}", size_,
              global);
  const auto after = std::upper_bound(pieces_.begin(), pieces_.end(), global,
                                      [](int64_t g, const Piece& p) { return g < p.interval.begin; });
  return *std::prev(after);
}

int64_t DimLayout::owner(int64_t global) const { return piece_of(global).rank; }

int64_t DimLayout::local_index(int64_t global) const {
  const Piece& piece = piece_of(global);
  return piece.local_begin + global - piece.interval.begin;
}

int64_t DimLayout::global_index(int64_t rank, int64_t local) const {
  int64_t rest = local;
  for (const Interval& i : held(rank)) {
    if (0 <= rest && rest < i.size()) return i.begin + rest;
    rest -= i.size();
  }
  fail(kOp, "local index of rank {}; expected one of [0, {}), got {}", rank, local_size(rank), local);
}

at::Tensor DimLayout::select(const at::Tensor& tensor, int64_t dim, int64_t rank, double pad) const {
  AXIAL_CHECK(tensor.size(dim) == logical_size_, kOp, "dim {} of the tensor to cut; expected size {}, got {}",
              dim, logical_size_, tensor.size(dim));
  std::vector<at::Tensor> parts;
  const auto padding = [&](int64_t length) {
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape[static_cast<size_t>(dim < 0 ? dim + tensor.dim() : dim)] = length;
    return at::full(shape, pad, tensor.options());
  };
  for (const Interval& i : held(rank)) {
    const int64_t end = std::max(i.begin, std::min(i.end, logical_size_));
    if (end > i.begin) parts.push_back(tensor.narrow(dim, i.begin, end - i.begin));
    if (i.end > end) parts.push_back(padding(i.end - end));
  }
  if (parts.empty()) return tensor.narrow(dim, 0, 0);
  return parts.size() == 1 ? parts.front() : at::cat(parts, dim);
}

at::Tensor DimLayout::assemble(const std::vector<at::Tensor>& pieces, int64_t dim) const {
  AXIAL_CHECK(static_cast<int64_t>(pieces.size()) == num_ranks(), kOp,
              "pieces to assemble; expected one per rank ({}), got {}", num_ranks(), pieces.size());
  for (int64_t r = 0; r < num_ranks(); ++r) {
    const int64_t got = pieces[static_cast<size_t>(r)].size(dim);
    AXIAL_CHECK(got == local_size(r), kOp, "dim {} of the piece of rank {}; expected size {}, got {}", dim, r,
                local_size(r), got);
  }
  std::vector<at::Tensor> parts;
  for (const Piece& p : pieces_) {
    const int64_t length = std::min(p.interval.end, logical_size_) - p.interval.begin;
    if (length <= 0) break;
    parts.push_back(pieces[static_cast<size_t>(p.rank)].narrow(dim, p.local_begin, length));
  }
  if (parts.empty()) return pieces.front().narrow(dim, 0, 0);
  return at::cat(parts, dim);
}

}  // namespace axial::parallel
