// SPDX-License-Identifier: Apache-2.0
// Which records train and which validate: by content, so that copies (and, on request, near copies) of a
// record never stand on both sides. open_genome_data calls it. No torch.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace axial::data {

struct SplitOptions {
  double validation_fraction = 0.05;
  bool keep_near_duplicates_together = false;
  double near_duplicate_identity = 0.95;
  template <class V>
  void fields(V& v) {
    v("validation_fraction", validation_fraction, "share of the records kept for validation; 0 for none");
    v("keep_near_duplicates_together", keep_near_duplicates_together,
      "put records of similar sequence on one side (costs one scan and 512 bytes per record)");
    v("near_duplicate_identity", near_duplicate_identity,
      "estimated identity, 0.8 to 1, from which two records are near duplicates");
  }
  void validate() const;  ///< throws ValueError
};

/// The records to split. H, W: one entry per record.
struct SplitInput {
  std::span<const uint64_t> content_hashes;  ///< [H] equal hash = equal sequence
  std::span<const int64_t> num_tokens;       ///< [H]
  /// Replace `text` by the sequence of a record; called once per distinct record, for near duplicates only.
  std::function<void(int64_t record, std::string& text)> text_of;
  bool nucleotides = true;  ///< sketch both strands of 21-mers; otherwise 6-mers of bytes, one strand
};

struct SplitReport {
  int64_t validation_records = 0;
  int64_t validation_tokens = 0;
  int64_t distinct = 0;            ///< records of distinct content
  int64_t clusters = 0;            ///< groups that stay together
  int64_t largest_cluster = 0;     ///< distinct records in the largest
  double largest_share = 0;        ///< its share of the tokens
  double identity_used = 1;        ///< 1: identical records only
  std::vector<std::string> notes;  ///< what differs from the request, in words
};

struct Split {
  std::vector<uint8_t> validation;  ///< [H] 1: the record validates
  SplitReport report;
};

/// Split records into training and validation.
///
/// Plain: a record validates when uniform(seed, content hash) < fraction: a pure function of those three,
/// so adding files never moves a record. Only when that leaves a side empty, the record with the smallest
/// (largest) draw is moved, if there are two distinct records.
/// With keep_near_duplicates_together: records are sketched (k-partition MinHash, 128 bins of 32-bit minima
/// over canonical 21-mers of the bases, or 6-mers of bytes; a partition of one permutation keeps bins of two
/// records comparable, which banding needs and plain bottom-k lists lack), paired by LSH banding, accepted
/// when the estimated identity (2J / (1 + J))^(1 / k) (Mash, Ondov et al. 2016) reaches the threshold, and
/// joined by union-find (single linkage). Clusters, in a seeded order, go to validation until its share of
/// the tokens is reached. When the clusters are so large that not half of the wanted share can be reached,
/// the distance 1 - identity is halved, up to 8 times, then only identical records are kept together; the
/// report says what was used. A short piece of a long record is not seen as its duplicate.
/// The result does not depend on the order of the records, only on the set.
Split split_records(const SplitInput& input, const SplitOptions& options, uint64_t seed);

}  // namespace axial::data
