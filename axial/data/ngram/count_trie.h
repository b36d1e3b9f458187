// SPDX-License-Identifier: Apache-2.0
// Counts of all n-grams up to an order, in sorted arrays linked level by level; internal to data/ngram.
//
// Every predicted token has a full context: positions before a record's start hold the pad symbol
// (id vocab_size). So each k-gram extends to the left in at least one (k + 1)-gram, and the levels
// nest: level k follows from level k + 1 by one linear pass.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace axial::data::detail {

/// Discounts of one level for grams counted once, twice, and more often: D_1 <= 1, D_2 <= 2, D_3+ <= 3.
using Discounts = std::array<double, 3>;

/// Sums over the grams of one context: of counts, and how many have count 1 and 2.
struct ContextSums {
  uint32_t total = 0;
  uint32_t ones = 0;
  uint32_t twos = 0;
};

/// What one level says about a token in its context; all zero when the context was never seen.
struct LevelCounts {
  uint32_t raw = 0;       ///< times the gram occurred
  uint32_t distinct = 0;  ///< symbols seen to the left of the gram (not at the highest level)
  uint32_t types = 0;     ///< tokens seen in the context
  ContextSums raw_sums;   ///< over the context's grams
  ContextSums distinct_sums;
};

/// Read-only counts. Level k (1..order) knows contexts of k - 1 tokens.
class CountTrie {
 public:
  int64_t order() const { return static_cast<int64_t>(levels_.size()); }
  /// Counts of `token` after `reversed_context` (newest first, order - 1 symbols, padded) at all levels.
  void find(std::span<const uint32_t> reversed_context, uint32_t token, std::span<LevelCounts> out) const;
  /// Distinct k-grams at level k.
  int64_t num_grams(int64_t level) const;
  int64_t bytes() const;
  /// Chen and Goodman's discounts from a level's counts of (raw or distinct) counts.
  Discounts estimated_discounts(int64_t level, bool distinct) const;

 private:
  friend class CountTrieBuilder;
  struct Level {
    std::vector<uint32_t> context_token;               // oldest token of each context
    std::vector<uint32_t> first_child;                 // contexts + 1, into the next level's contexts
    std::vector<uint32_t> first_gram;                  // contexts + 1, into the three below
    std::vector<ContextSums> raw_sums, distinct_sums;  // per context
    std::vector<uint16_t> token;                       // per gram, rising inside a context
    std::vector<uint32_t> raw, distinct;               // per gram
  };
  std::vector<Level> levels_;
};

/// Collects grams and builds the trie. Keys are the digits (newest context token, ..., oldest, token)
/// in base vocab_size + 1, so that sorting brings contexts together.
class CountTrieBuilder {
 public:
  /// Throws UnsupportedError when (vocab_size + 1)^order exceeds 64 bits.
  CountTrieBuilder(int64_t order, int64_t vocab_size);
  /// Count every token of the record but the first, which is context only. Tokens must be < vocab_size.
  void add_record(std::span<const int32_t> record);
  /// Highest order that 64-bit keys hold for a vocabulary.
  static int64_t max_order(int64_t vocab_size);
  CountTrie build();

 private:
  struct Table {
    std::vector<uint64_t> keys;
    std::vector<uint32_t> raw, distinct;
  };
  void flush();
  Table lower(const Table& table) const;
  CountTrie::Level level_of(const Table& table, const std::vector<uint64_t>* children,
                            std::vector<uint64_t>& contexts) const;

  int64_t order_;
  uint64_t base_;
  std::vector<uint64_t> powers_;  // base^0 .. base^order - 1
  std::vector<uint64_t> pending_;
  Table top_;
  int64_t num_tokens_ = 0;
};

}  // namespace axial::data::detail
