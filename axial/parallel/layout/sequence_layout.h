// SPDX-License-Identifier: Apache-2.0
// The one owner of offsets along `seq`: from rows of packed records to the tensors of a batch. Labels are
// shifted over the whole row before anything is cut, so no split can lose or misplace one. Called by data.
#pragma once

#include <cstdint>
#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/layout/dim_layout.h"

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
class SequenceLayout {
 public:
  /// Rows of length `dim.logical_size()` as held by `rank`; halos are refused.
  explicit SequenceLayout(DimLayout dim, int64_t rank = 0);
  /// All of the row on one rank.
  static SequenceLayout whole(int64_t length);

  int64_t length() const { return dim_.logical_size(); }
  int64_t local_length() const { return dim_.local_size(rank_); }
  const DimLayout& dim() const { return dim_; }

  /// The batch of these rows.
  ///
  /// B rows, L local positions, S local segments of all rows in row order. All int64 on the host.
  ///   tokens        [B, L]  `pad_token` where there is none
  ///   labels        [B, L]  next token inside the record; kIgnoredLabel at record ends and padding
  ///   positions     [B, L]  place in the record, from 0 at every record; padding counts from 0 as well
  ///   segments      [S + 1] borders over the flattened B * L local positions: of records, of padding (one
  ///                         segment per row) and wherever local neighbours are not neighbours in the row
  ///   sample_ids    [B]
  ///   row_positions [L]     place in the row: what dropout is keyed by
  /// Throws ValueError naming the row for one that is too long or whose record starts are not ascending.
  NamedTensors make_batch(const std::vector<PackedRow>& rows, int64_t pad_token) const;

  /// Place in the row of every local position, [L] int64.
  at::Tensor row_positions() const;

 private:
  DimLayout dim_;
  int64_t rank_ = 0;
};

/// Number of labels that count in these rows, over all ranks.
int64_t count_labels(const std::vector<PackedRow>& rows);

}  // namespace axial::parallel
