// SPDX-License-Identifier: Apache-2.0
// Which global indices of a tensor dim each rank holds, and in which local order. The one owner of that
// question: sequences, rows, channels and tiles ask here and compute no offset of their own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "axial/parallel/layout/interval.h"

namespace axial::parallel {

/// The split of one dim over the ranks of a group: every index has exactly one owner.
///
/// A rank's local order is its intervals, ascending, one after the other; each is widened by the halo
/// (clipped at the ends of the dim). Indices from logical_size() on are padding.
class DimLayout {
 public:
  /// One rank holds everything.
  static DimLayout whole(int64_t size);
  /// One block per rank; sizes differ by at most one.
  static DimLayout contiguous(int64_t size, int64_t num_ranks);
  /// One block per rank, of these sizes (zero is allowed).
  static DimLayout blocks(const std::vector<int64_t>& sizes);
  /// 2 * num_ranks chunks, rank r holds chunks r and 2 * num_ranks - 1 - r: equal causal work per rank.
  static DimLayout zigzag(int64_t size, int64_t num_ranks);
  /// Any split; throws ValueError unless the intervals are ascending per rank, disjoint and complete.
  static DimLayout custom(int64_t size, std::vector<std::vector<Interval>> per_rank);

  /// The same split in which every interval also holds `before` and `after` neighbours, where they exist.
  DimLayout with_halo(int64_t before, int64_t after) const;
  /// The same split in which indices [logical_size, size()) are padding.
  DimLayout with_logical_size(int64_t logical_size) const;

  int64_t size() const { return size_; }
  int64_t logical_size() const { return logical_size_; }
  bool has_halo() const { return halo_before_ > 0 || halo_after_ > 0; }
  int64_t num_ranks() const { return static_cast<int64_t>(owned_.size()); }
  /// Intervals that the rank owns, ascending, none empty, none touching the next.
  const std::vector<Interval>& owned(int64_t rank) const;
  /// The same with halo. Two of one rank may overlap: each interval has its own neighbours.
  std::vector<Interval> held(int64_t rank) const;
  /// Entries of the rank's local dim, halo included.
  int64_t local_size(int64_t rank) const;
  /// Rank that owns a global index.
  int64_t owner(int64_t global) const;
  /// Place of a global index in its owner's local dim.
  int64_t local_index(int64_t global) const;
  /// Global index at a place of the rank's local dim.
  int64_t global_index(int64_t rank, int64_t local) const;

  /// The rank's part of a tensor whose `dim` has logical_size() entries; padding is filled with `pad`.
  at::Tensor select(const at::Tensor& tensor, int64_t dim, int64_t rank, double pad = 0.0) const;
  /// The tensor from every rank's part, halo and padding dropped. assemble(select(...)) is the identity.
  at::Tensor assemble(const std::vector<at::Tensor>& pieces, int64_t dim) const;

  friend bool operator==(const DimLayout&, const DimLayout&) = default;

 private:
  struct Piece {
    Interval interval;
    int64_t rank = 0;
    int64_t local_begin = 0;  ///< place of interval.begin in the rank's local dim

    friend bool operator==(const Piece&, const Piece&) = default;
  };
  DimLayout(int64_t size, std::vector<std::vector<Interval>> owned);
  void index_pieces();
  const Piece& piece_of(int64_t global) const;

  int64_t size_ = 0;
  int64_t logical_size_ = 0;
  int64_t halo_before_ = 0;
  int64_t halo_after_ = 0;
  std::vector<std::vector<Interval>> owned_;
  std::vector<Piece> pieces_;  // of all ranks, ascending
};

}  // namespace axial::parallel
