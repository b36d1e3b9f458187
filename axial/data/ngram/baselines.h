// SPDX-License-Identifier: Apache-2.0
// The table of baselines that a language model's perplexity stands beside: uniform, unigram, and
// n-grams of both smoothings whose weights are tuned on the very records they are judged on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "axial/data/ngram/ngram.h"

namespace axial::data {

struct BaselineOptions {
  int64_t min_order = 2;
  int64_t max_order = 6;  ///< orders above the fitted one are left out
  int64_t tuning_tokens = 131072;
  template <class V>
  void fields(V& v) {
    v("min_order", min_order, "shortest n-gram in the table");
    v("max_order", max_order, "longest n-gram in the table");
    v("tuning_tokens", tuning_tokens, "validation tokens, evenly spaced, on which n-grams are tuned");
  }
  void validate() const;
};

/// One line: how well a model predicts the validation tokens.
struct BaselineRow {
  std::string name;
  int64_t tokens = 0;     ///< predicted tokens: all of each record but the first
  double nats = 0;        ///< mean -ln P per predicted token
  double bits = 0;        ///< the same in bits
  double perplexity = 0;  ///< exp(nats)
  NgramWeights ngram;     ///< the model behind the row; order 0 for uniform and unigram
};

BaselineRow make_baseline_row(std::string name, double total_nats, int64_t tokens);

struct BaselineTable {
  std::vector<BaselineRow> rows;
  /// The row of lowest perplexity among the n-grams. Throws ValueError when there is none.
  const BaselineRow& best_ngram() const;
  /// Aligned text with a title line.
  std::string render() const;
};

/// Weights of the order-n model that maximise its likelihood over a sample of the validation tokens.
/// Coordinate by coordinate from estimated(n): the likelihood is concave in a discount, whose optimum
/// bisection of the derivative finds; a strength takes a grid over 9 decades, then a golden section. Sweeps
/// end when one gains less than 1e-5 nats. Tuning on validation favours the baseline: a model that
/// beats it has beaten the best it can be.
NgramWeights tune_weights(const NgramModel& model, const TokenRecords& validation, int64_t n,
                          Smoothing smoothing = Smoothing::kKneserNey, int64_t tuning_tokens = 131072);

/// Every baseline over all predicted tokens of the validation records. Two passes over them;
/// on_tokens (optional) hears the running token count of the second.
BaselineTable compute_baselines(const NgramModel& model, const TokenRecords& validation,
                                const BaselineOptions& options = {},
                                const std::function<void(int64_t)>& on_tokens = nullptr);

}  // namespace axial::data
