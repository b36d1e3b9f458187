// SPDX-License-Identifier: Apache-2.0
// A BatchSource that makes one row at a time; sources can so be mixed row by row.
#pragma once

#include <string>
#include <vector>

#include "axial/data/common/batch_source.h"
#include "axial/parallel/layout/sequence_layout.h"

namespace axial::data {

/// A row before it becomes tensors.
struct SourceRow {
  parallel::PackedRow row;
  std::vector<parallel::Interval> ignored;  ///< places whose labels another row counts
  std::vector<std::string> names;           ///< of the records in it
};

/// Rows of one length.
class RowSource : public BatchSource {
 public:
  /// `layout` says which part of each row the tensors hold (all of it: SequenceLayout::whole(length)).
  explicit RowSource(parallel::SequenceLayout layout) : layout_(std::move(layout)) {}
  /// The row at a global index of the endless stream; its sample id is the index.
  virtual SourceRow row(int64_t index) const = 0;
  /// As BatchSource; weight, num_tokens and record_names are of the whole rows on every layout. Adds
  /// row_positions [L] to the tensors. Throws ValueError for a negative index or count.
  Batch rows(int64_t first, int64_t count) const final;
  const parallel::SequenceLayout& layout() const { return layout_; }

 private:
  parallel::SequenceLayout layout_;
};

}  // namespace axial::data
