// SPDX-License-Identifier: Apache-2.0
// Everything from file names to batches of a sequence model: expand, tokenize, split, pack, mix, report.
// Training, evaluation, scoring and embedding commands start here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "axial/data/genome/report.h"
#include "axial/data/packing/packed_source.h"
#include "axial/data/split/split.h"
#include "axial/data/token_cache/token_cache.h"

namespace axial::data {

/// Files that make up a fixed share of a mixture.
struct GenomeGroup {
  std::vector<std::string> files;
  double weight = 0;
  template <class V>
  void fields(V& v) {
    v("files", files, "FASTA files, folders or patterns; plain, gzip or zstd");
    v("weight", weight,
      "share of the rows relative to the other groups; 0 in all groups: every row once per epoch");
  }
};

struct GenomeDataOptions {
  std::vector<std::string> files;
  std::vector<GenomeGroup> mixture;
  std::vector<std::string> validation_files;
  TokenizerOptions tokenizer;
  int64_t sequence_length = 2048;
  int64_t stride = 0;
  SplitOptions split;
  std::string cache;
  template <class V>
  void fields(V& v) {
    v("files", files, "FASTA files, folders or patterns; plain, gzip or zstd");
    v("mixture", mixture, "groups of files with weights, instead of files");
    v("validation_files", validation_files,
      "files that validate; all records of the others then train and split is not used");
    v("tokenizer", tokenizer, "how sequences become tokens");
    v("sequence_length", sequence_length, "tokens per row");
    v("stride", stride,
      "tokens between the windows of a record longer than a row; 0: sequence_length, no overlap");
    v("split", split, "training and validation records");
    v("cache", cache,
      "folder for token caches; empty: $XDG_CACHE_HOME/axial or ~/.cache/axial; none: memory only");
  }
  void validate() const;  ///< throws ValueError
};

/// Hands the token ids of record after record to its argument; may be called again.
using RecordWalk = std::function<void(const std::function<void(std::span<const int32_t>)>&)>;

/// What open_genome_data gives.
struct GenomeData {
  std::unique_ptr<RowSource> train;
  std::unique_ptr<RowSource> validation;  ///< null when nothing validates; rows in storage order
  RecordWalk train_records;               ///< whole records of each side, for baselines that count
  RecordWalk validation_records;
  std::shared_ptr<const Tokenizer> tokenizer;
  GenomeReport report;
};

/// Open files as training and validation rows.
///
/// The order of training rows, the packing and the split are pure functions of (options, file contents,
/// seed). `layout` says which part of each row this rank makes (default: all of it). Validation rows keep
/// the storage order, are the same in every epoch, and are not weighted by the mixture.
/// Throws as expand_inputs, open_token_store, split_records, PackedSource; ValueError for wrong options.
GenomeData open_genome_data(const GenomeDataOptions& options, uint64_t seed,
                            const std::optional<parallel::SequenceLayout>& layout = std::nullopt);

/// One record with its tokens, for scoring and embedding.
struct GenomeRecord {
  std::string name;
  std::string file;
  std::vector<int64_t> tokens;
};

/// All records of files in file order: no split, no packing, no order of its own.
class GenomeRecords {
 public:
  GenomeRecords(std::vector<std::string> files, OpenedStore opened,
                std::shared_ptr<const Tokenizer> tokenizer, GenomeReport report);
  int64_t size() const { return opened_.store->num_records(); }
  int64_t length(int64_t index) const { return opened_.store->length(index); }
  /// Throws ValueError when out of range.
  GenomeRecord record(int64_t index) const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const GenomeReport& report() const { return report_; }

 private:
  std::vector<std::string> files_;
  OpenedStore opened_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  GenomeReport report_;
};

/// Open all records of files. Records that are empty or shorter than one token are counted in the report.
GenomeRecords open_genome_records(const std::vector<std::string>& files, const TokenizerOptions& tokenizer,
                                  const std::string& cache = "");

}  // namespace axial::data
