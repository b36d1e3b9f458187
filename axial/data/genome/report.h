// SPDX-License-Identifier: Apache-2.0
// What opening genome data met, as numbers for programs and as lines for people. Commands print it.
#pragma once

#include <string>
#include <vector>

#include "axial/data/split/split.h"
#include "axial/data/token_cache/token_store.h"

namespace axial::data {

struct GenomeReport {
  int64_t files = 0;
  int64_t records = 0;  ///< with tokens
  int64_t tokens = 0;
  StoreCounts counts;  ///< summed over the groups; repeats are counted within a group
  SplitReport split;
  int64_t train_rows = 0;
  int64_t train_tokens = 0;  ///< in rows: tokens of overlaps each time
  double train_fill = 0;     ///< share of positions that hold tokens
  int64_t validation_rows = 0;
  int64_t validation_tokens = 0;
  double validation_fill = 0;
  int64_t cut_records = 0;  ///< longer than a row
  std::string content;      ///< hash over the sequences and sides of all records: equal means equal rows
  std::vector<std::string> caches;
  std::vector<std::string> warnings;  ///< for the user to act on or to know

  /// A few lines: records and tokens, split, rows and fill.
  std::vector<std::string> lines() const;
};

/// Add the counts of one more store.
void add_counts(StoreCounts& sum, const StoreCounts& more);

/// The warnings that follow from counts: empty, short, ragged, ambiguous, unnamed and repeated records, gaps.
std::vector<std::string> warnings_of(const StoreCounts& counts, const TokenizerOptions& tokenizer);

}  // namespace axial::data
