// SPDX-License-Identifier: Apache-2.0
// n-gram language models of token records: what a neural model is compared with. No torch.
//
// Interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1998), one discount D_k per order:
//   P_k(w | h) = max(c(h w) - D_k, 0) / c(h) + D_k t(h) / c(h) P_{k-1}(w | h'),   P_0 = 1 / V,
// t(h) distinct tokens after h, h' = h without its oldest token. At the model's order c counts
// occurrences, below it c(h w) counts the distinct symbols to the left of h w. The first token of a
// record is context only and never predicted: just what a neural model sees, with or without BOS.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "axial/data/ngram/count_trie.h"

namespace axial::data {

/// Calls its argument once per record, in a fixed order; may be run several times.
using TokenRecords = std::function<void(const std::function<void(std::span<const int32_t>)>&)>;

struct NgramOptions {
  int64_t order = 6;
  template <class V>
  void fields(V& v) {
    v("order", order, "longest n-gram counted, 1 to what 64-bit keys hold (10 for 69 tokens)");
  }
};

/// One model out of the counts: its order and D_1 .. D_order, each in (0, 1].
struct KneserNey {
  int64_t order = 0;
  std::vector<double> discounts;
};

/// Counts of a training set, which hold the models of every order up to options.order.
class NgramModel {
 public:
  /// Highest order that a vocabulary allows.
  static int64_t max_order(int64_t vocab_size);
  /// Count the records. Time O(T log T) for T tokens, memory at most 30 bytes per distinct n-gram plus
  /// 24 per distinct n-gram of the highest order; on_tokens (optional) hears the running token count.
  /// Throws ValueError (tokens out of range, nothing to count), UnsupportedError (order too high).
  static NgramModel fit(const TokenRecords& records, int64_t vocab_size, const NgramOptions& options = {},
                        const std::function<void(int64_t)>& on_tokens = nullptr);

  int64_t order() const { return trie_.order(); }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t num_tokens() const { return num_tokens_; }
  /// Distinct n-grams of an order.
  int64_t num_grams(int64_t n) const { return trie_.num_grams(n); }
  int64_t bytes() const { return trie_.bytes(); }

  /// ln P(token | prefix); prefix is the record from its first token on (the last order - 1 matter).
  double ln_probability(const KneserNey& model, std::span<const int32_t> prefix, int32_t token) const;
  /// Add-one smoothed unigram: ln (count + 1) / (T + V).
  double ln_unigram(int32_t token) const;
  /// Discounts D_k = n_1 / (n_1 + 2 n_2) from the counts of counts (Ney, Essen, Kneser 1994), without any
  /// validation data: where tuning starts.
  KneserNey estimated(int64_t n) const;
  /// Counts at every level for token `at` of a record, at >= 1.
  void find(std::span<const int32_t> record, size_t at, std::span<detail::LevelCounts> out) const;

 private:
  void check_token(int32_t token) const;
  detail::CountTrie trie_;
  int64_t vocab_size_ = 0;
  int64_t num_tokens_ = 0;
};

/// P of a model given the counts at its levels; linear in each discount.
double interpolate(const KneserNey& model, std::span<const detail::LevelCounts> levels, int64_t vocab_size);

}  // namespace axial::data
