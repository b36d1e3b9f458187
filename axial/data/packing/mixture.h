// SPDX-License-Identifier: Apache-2.0
// Several row sources in fixed proportions. open_genome_data makes it for weighted groups of files.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "axial/data/packing/row_source.h"

namespace axial::data {

/// Which source a row of a mixture is from, as evenly as whole rows allow.
///
/// Tijdeman's algorithm for the chairman assignment problem (Discrete Mathematics 32, 1980): after any number
/// n of rows, each source has had n * share rows up to an error of at most 1 - 1 / (2k - 2) < 1 for k
/// sources. One period is computed and kept (8 bytes per row of it), so any row is found in O(1). Shares are
/// rounded to fractions of the period: exactly for weights in whole proportions with a sum up to 4096 and for
/// shares of row counts up to 2^22 in sum, else to within 2^-20.
class MixtureSchedule {
 public:
  /// Weights of at least one source, each above 0. Throws ValueError.
  explicit MixtureSchedule(const std::vector<double>& weights);
  struct Place {
    int64_t source = 0;
    int64_t index = 0;  ///< row of the source's own stream
  };
  Place at(int64_t row) const;
  /// Rows after which the pattern repeats, and how many of them are of a source.
  int64_t period() const { return static_cast<int64_t>(slots_.size()); }
  int64_t rows_per_period(int64_t source) const { return counts_.at(static_cast<size_t>(source)); }

 private:
  void fill(int64_t period);
  struct Slot {
    uint32_t source = 0;
    uint32_t index = 0;
  };
  std::vector<int64_t> counts_;
  std::vector<Slot> slots_;
};

/// Rows of several sources of one row length, interleaved by a MixtureSchedule; every source goes through
/// its own epochs. num_rows() and num_tokens() are the sums over the sources, so with weights in proportion
/// to their rows (empty `weights`) an epoch holds every row once. Sample ids are indices of the mixture.
class MixtureSource final : public RowSource {
 public:
  MixtureSource(std::vector<std::unique_ptr<RowSource>> sources, std::vector<double> weights);
  int64_t num_rows() const override;
  int64_t num_tokens() const override;
  SourceRow row(int64_t index) const override;
  const MixtureSchedule& schedule() const { return schedule_; }

 private:
  std::vector<std::unique_ptr<RowSource>> sources_;
  MixtureSchedule schedule_;
};

}  // namespace axial::data
