// SPDX-License-Identifier: Apache-2.0
// What the trainer knows of data: rows of named tensors, addressed by (epoch, row), in a pure order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "axial/parallel/block/block.h"

namespace axial::data {

/// Some rows of packed records as named tensors.
///
/// B rows, L positions, S segments of all rows in row order (padding is a segment of its own).
///   tokens     [B, L] int64
///   labels     [B, L] int64   next token inside the record; -100 at record ends and padding
///   positions  [B, L] int64   position in the record (window), restarting at every record
///   segments   [S + 1] int64  borders of records over the flattened B * L positions
///   sample_ids [B] int64      global sample id of the row: unique over a run
///   row_positions [L] int64   place in the row, what dropout is keyed by
///   record_starts [B, A] int64  place in the row where each position's record or padding begins
/// and later_records [R] int64: parallel::SequenceLayout makes them, and says what they are.
struct Batch {
  parallel::NamedTensors tensors;
  double weight = 0;                      ///< number of labels that count
  int64_t num_tokens = 0;                 ///< tokens that are not padding
  std::vector<std::string> record_names;  ///< of the records in it, for error messages
};

/// Rows in an order that is a pure function of (seed, epoch, index): resumable and shardable.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  /// Rows per epoch.
  virtual int64_t num_rows() const = 0;
  /// Tokens (padding left out) per epoch.
  virtual int64_t num_tokens() const = 0;
  /// Rows at global indices [first, first + count) of the endless stream; index / num_rows() is the epoch.
  virtual Batch rows(int64_t first, int64_t count) const = 0;
};

}  // namespace axial::data
