// SPDX-License-Identifier: Apache-2.0
// Packed rows of records of token stores as a BatchSource. open_genome_data makes it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "axial/data/packing/pack.h"
#include "axial/data/packing/row_source.h"
#include "axial/data/token_cache/token_store.h"

namespace axial::data {

/// A record of one of several stores.
struct RecordRef {
  int32_t store = 0;
  int64_t record = 0;
};

struct PackedSourceOptions {
  int64_t row_length = 2048;
  int64_t stride = 0;   ///< tokens between the windows of a long record; 0: row_length, no overlap
  bool shuffle = true;  ///< false: rows in storage order, every epoch alike (validation)
  uint64_t seed = 0;    ///< of the packing and the order
  std::optional<parallel::SequenceLayout> layout;  ///< the part of each row to make; default: all of it
};

/// Records packed once; the order of rows is a keyed permutation per epoch.
///
/// Row g of the endless stream is row permutation(seed, g / num_rows())(g % num_rows()): a pure function of
/// (seed, g) in O(1), so a run resumes anywhere and shards are ranges. Reading from several threads is fine.
/// Long records are cut into windows (see cut_windows); a window has its own segment, positions from 0, and
/// BOS only when it is the first. num_tokens() counts overlapping tokens once per window.
/// Throws ValueError when no record has a label to predict.
class PackedSource final : public RowSource {
 public:
  PackedSource(std::vector<std::shared_ptr<const TokenStore>> stores, std::vector<RecordRef> records,
               const PackedSourceOptions& options);
  int64_t num_rows() const override { return rows_.num_rows(); }
  int64_t num_tokens() const override { return rows_.num_tokens; }
  SourceRow row(int64_t index) const override;
  const PackedRows& packing() const { return rows_; }

 private:
  std::vector<std::shared_ptr<const TokenStore>> stores_;
  std::vector<RecordRef> records_;
  PackedRows rows_;
  bool shuffle_ = true;
  RngKey order_key_;
};

}  // namespace axial::data
