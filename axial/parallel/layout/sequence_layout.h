// SPDX-License-Identifier: Apache-2.0
// The one owner of offsets along `seq`: from rows of packed records to the tensors of a batch. Labels are
// shifted over the whole row before anything is cut, so no split can lose or misplace one. Called by data.
#pragma once

#include <cstdint>
#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/layout/dim_layout.h"
#include "axial/parallel/mesh/mesh.h"

namespace axial::parallel {

/// Label of a position that does not count in the loss.
inline constexpr int64_t kIgnoredLabel = -100;

/// One row of a batch before any cut: records (or windows of them) one after the other.
struct PackedRow {
  std::vector<int64_t> tokens;         ///< at most the row length; what is missing becomes padding
  std::vector<int64_t> record_starts;  ///< ascending places in tokens, the first is 0; empty without tokens
  int64_t next_token = -1;             ///< what follows when the row cuts its last record; -1: it ends here
  int64_t sample_id = 0;               ///< global, unique over a run
};

/// What one rank holds of rows of a given length.
///
/// A row is split twice: over the ring (zigzag), and the positions of each ring rank, in their order, over
/// its ulysses ranks (contiguous). Attention needs the first split, everything else what this rank holds.
class SequenceLayout {
 public:
  /// Rows of length `dim.logical_size()` as held by `rank`, a ring rank; halos are refused.
  explicit SequenceLayout(DimLayout dim, int64_t rank = 0);
  /// All of the row on one rank.
  static SequenceLayout whole(int64_t length);
  /// Rows of any length over the axes ring and ulysses that the mesh has, as its rank holds them. Pieces
  /// differ by at most one position; of a row shorter than the ranks some are empty.
  static SequenceLayout over(const Mesh& mesh, int64_t length);

  int64_t length() const { return dim_.logical_size(); }
  int64_t local_length() const { return dim_.local_size(rank_); }
  /// The split over all ranks: rank ring_rank * ulysses ranks + ulysses rank.
  const DimLayout& dim() const { return dim_; }
  /// The split over the ring, and this rank's place in it.
  const DimLayout& ring() const { return ring_; }
  int64_t ring_rank() const { return ring_rank_; }
  /// Positions held by each ulysses rank of this ring rank, in their order; their sum is
  /// ring().local_size(ring_rank()).
  const std::vector<int64_t>& ulysses_sizes() const { return ulysses_sizes_; }

  /// The batch of these rows.
  ///
  /// B rows, L local positions, A positions of this ring rank (L without ulysses), S local segments of all
  /// rows in row order. All int64 on the host.
  ///   tokens        [B, L]  `pad_token` where there is none
  ///   labels        [B, L]  next token inside the record; kIgnoredLabel at record ends and padding
  ///   positions     [B, L]  place in the record, from 0 at every record; padding counts from 0 as well
  ///   segments      [S + 1] borders over the flattened B * L local positions: of records, of padding (one
  ///                         segment per row) and wherever local neighbours are not neighbours in the row
  ///   sample_ids    [B]
  ///   row_positions [L]     place in the row: what dropout is keyed by
  ///   record_starts [B, A]  place in the row where the record, or the padding, of each position begins, for
  ///                         all positions whose queries this rank attends with: sequence_attention reads it
  ///   later_records [R]     where a record begins that is not the first of its row: row * length() + place,
  ///                         of all rows, the same on every rank; none: a token's position is its place
  /// Throws ValueError naming the row for one that is too long or whose record starts are not ascending.
  NamedTensors make_batch(const std::vector<PackedRow>& rows, int64_t pad_token) const;

  /// The shapes of a batch of `rows` full rows of as many records each, on Meta: what a plan runs on. Borders
  /// of records are counted as if they all lay on this rank.
  NamedTensors describe_batch(int64_t rows, int64_t records_per_row = 1) const;

  /// Place in the row of every local position, [L] int64.
  at::Tensor row_positions() const;
  /// Place in the row of every position of this ring rank, [A] int64: whose queries it attends with.
  at::Tensor attended_positions() const;

 private:
  SequenceLayout(DimLayout ring, int64_t ring_rank, int64_t ulysses, int64_t ulysses_rank);

  DimLayout dim_;
  int64_t rank_ = 0;
  DimLayout ring_;
  int64_t ring_rank_ = 0;
  std::vector<int64_t> ulysses_sizes_;
};

/// Number of labels that count in these rows, over all ranks.
int64_t count_labels(const std::vector<PackedRow>& rows);

}  // namespace axial::parallel
