// SPDX-License-Identifier: Apache-2.0
// Log-likelihood per record under a causal model. `axial score` writes its rows as they come.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "axial/train/infer/windows.h"

namespace axial::train {

/// Score of one record.
struct Score {
  std::string id;
  int64_t tokens = 0;         ///< tokens that were predicted: all but the first
  double log_likelihood = 0;  ///< natural logarithm, summed over them
};

/// Scores records in the order they are added. Each token but the first is counted once; in records longer
/// than a window it is predicted from at least `overlap` tokens.
class Scorer {
 public:
  using OnScore = std::function<void(const Score&)>;
  /// `ranks`: as WindowRunner has it; all are told all scores.
  Scorer(const models::Model& model, const WindowOptions& options, OnScore on_score,
         parallel::Communicator* ranks = nullptr);

  void add(std::string id, std::vector<int32_t> ids);
  void finish() { windows_.finish(); }

 private:
  std::deque<Score> open_;  // added, not yet handed over
  int64_t next_ = 0;
  int64_t first_open_ = 0;
  OnScore on_score_;
  WindowRunner windows_;
};

}  // namespace axial::train
