// SPDX-License-Identifier: Apache-2.0
// n-gram language models of token records: what a neural model is compared with. No torch.
//
// One recursion over the orders, P_0 = 1 / V, h' = h without its oldest token:
//   P_k(w | h) = (c(h w) - D_k(c(h w)) + (S_k + sum_v D_k(c(h v))) P_{k-1}(w | h')) / (c(h) + S_k)
// D_k(0) = 0, then one discount for counts of 1, of 2, and above. Kneser-Ney (modified, Chen and Goodman
// 1998): S = 0, and c counts distinct left symbols below the model's own order. Pitman-Yor: c counts
// occurrences at every order, S_k is the strength of a prior centred on the shorter context (MacKay and
// Peto 1995, Teh 2006), which serves small vocabularies such as codons better. The first token of a
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

enum class Smoothing { kKneserNey, kPitmanYor };

/// One model out of the counts: per level 1 .. order its discounts, each in (0, count], and its strength.
struct NgramWeights {
  int64_t order = 0;
  std::vector<detail::Discounts> discounts;
  std::vector<double> strengths;
  Smoothing smoothing = Smoothing::kKneserNey;
};

/// Counts of a training set, which hold the models of every order up to options.order.
class NgramModel {
 public:
  /// Highest order that a vocabulary allows.
  static int64_t max_order(int64_t vocab_size);
  /// Count the records. Time O(T log T) for T tokens, memory at most 46 bytes per distinct n-gram plus
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
  double ln_probability(const NgramWeights& model, std::span<const int32_t> prefix, int32_t token) const;
  /// Add-one smoothed unigram: ln (count + 1) / (T + V).
  double ln_unigram(int32_t token) const;
  /// Chen and Goodman's discounts from the counts of counts, without validation data: where tuning starts.
  NgramWeights estimated(int64_t n, Smoothing smoothing = Smoothing::kKneserNey) const;
  /// Counts at every level for token `at` of a record, at >= 1.
  void find(std::span<const int32_t> record, size_t at, std::span<detail::LevelCounts> out) const;

 private:
  void check_token(int32_t token) const;
  detail::CountTrie trie_;
  int64_t vocab_size_ = 0;
  int64_t num_tokens_ = 0;
};

/// P of a model given the counts at its levels; linear in each discount, and of the form
/// A + B / (c(h) + S_k) in each strength.
double interpolate(const NgramWeights& model, std::span<const detail::LevelCounts> levels,
                   int64_t vocab_size);

}  // namespace axial::data
