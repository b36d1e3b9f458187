// SPDX-License-Identifier: Apache-2.0
// Building and searching count_trie.h. Peak memory: 24 bytes per distinct gram of the highest order
// while counting, then at most 46 bytes per distinct gram of any order.
#include "axial/data/ngram/count_trie.h"

#include <algorithm>
#include <limits>

#include "axial/core/check/check.h"

namespace axial::data::detail {
namespace {

constexpr size_t kPendingKeys = size_t{1} << 23;  // 64 MiB sorted at a time

/// Index of `value` in the sorted range [begin, end) of `values`, or `end`.
template <class T>
uint32_t index_of(const std::vector<T>& values, uint32_t begin, uint32_t end, uint32_t value) {
  const auto at = std::lower_bound(values.begin() + begin, values.begin() + end, value);
  const auto index = static_cast<uint32_t>(at - values.begin());
  return index < end && *at == value ? index : end;
}

void add_to(ContextSums& sums, uint32_t count) {
  sums.total += count;
  sums.ones += count == 1 ? 1 : 0;
  sums.twos += count == 2 ? 1 : 0;
}

}  // namespace

void CountTrie::find(std::span<const uint32_t> reversed_context, uint32_t token,
                     std::span<LevelCounts> out) const {
  std::fill(out.begin(), out.end(), LevelCounts{});
  uint32_t context = 0;
  for (size_t k = 0; k < levels_.size(); ++k) {
    const Level& level = levels_[k];
    const uint32_t begin = level.first_gram[context], end = level.first_gram[context + 1];
    LevelCounts& counts = out[k];
    counts.types = end - begin;
    counts.raw_sums = level.raw_sums[context];
    if (!level.distinct_sums.empty()) counts.distinct_sums = level.distinct_sums[context];
    const uint32_t gram = index_of(level.token, begin, end, token);
    if (gram != end) {
      counts.raw = level.raw[gram];
      if (!level.distinct.empty()) counts.distinct = level.distinct[gram];
    }
    if (k + 1 == levels_.size()) return;
    const uint32_t last = level.first_child[context + 1];
    context = index_of(levels_[k + 1].context_token, level.first_child[context], last, reversed_context[k]);
    if (context == last) return;
  }
}

int64_t CountTrie::num_grams(int64_t level) const {
  return static_cast<int64_t>(levels_.at(static_cast<size_t>(level - 1)).token.size());
}

int64_t CountTrie::bytes() const {
  size_t bytes = 0;
  for (const Level& level : levels_) {
    bytes += 4 * (level.context_token.size() + level.first_child.size() + level.first_gram.size() +
                  level.raw.size() + level.distinct.size()) +
             2 * level.token.size() +
             sizeof(ContextSums) * (level.raw_sums.size() + level.distinct_sums.size());
  }
  return static_cast<int64_t>(bytes);
}

Discounts CountTrie::estimated_discounts(int64_t level, bool distinct) const {
  const Level& at = levels_.at(static_cast<size_t>(level - 1));
  std::array<double, 5> n{};  // n[c]: grams with count c
  for (const uint32_t count : distinct ? at.distinct : at.raw) {
    if (count < n.size()) n[count] += 1;
  }
  const double y = n[1] > 0 ? n[1] / (n[1] + 2 * n[2]) : 0.0;
  Discounts discounts;
  for (size_t c = 1; c <= 3; ++c) {
    const auto count = static_cast<double>(c);
    const double estimate = n[c] > 0 ? count - (count + 1) * y * n[c + 1] / n[c] : 0.0;
    discounts[c - 1] = std::clamp(estimate, 0.05, count);
  }
  return discounts;
}

int64_t CountTrieBuilder::max_order(int64_t vocab_size) {
  const auto base = static_cast<uint64_t>(vocab_size) + 1;
  int64_t order = 0;
  for (uint64_t power = 1; power <= std::numeric_limits<uint64_t>::max() / base; power *= base) ++order;
  return order;
}

CountTrieBuilder::CountTrieBuilder(int64_t order, int64_t vocab_size)
    : order_(order), base_(static_cast<uint64_t>(vocab_size) + 1) {
  AXIAL_CHECK(vocab_size >= 1 && vocab_size <= 65536, "ngram", "vocabulary of {} tokens; expected 1 to 65536",
              vocab_size);
  AXIAL_CHECK(order >= 1, "ngram", "order {}; expected at least 1", order);
  if (order > max_order(vocab_size)) {
    fail<UnsupportedError>("ngram", "order {} with {} tokens exceeds 64-bit keys; expected order <= {}",
                           order, vocab_size, max_order(vocab_size));
  }
  for (uint64_t k = 0, power = 1; k < static_cast<uint64_t>(order); ++k, power *= base_)
    powers_.push_back(power);
}

void CountTrieBuilder::add_record(std::span<const int32_t> record) {
  num_tokens_ += std::max<int64_t>(static_cast<int64_t>(record.size()) - 1, 0);
  AXIAL_CHECK(num_tokens_ <= std::numeric_limits<uint32_t>::max(), "ngram",
              "more than {} tokens to count; fit on fewer records", std::numeric_limits<uint32_t>::max());
  // The context as a number in base `base_`, newest token in the highest digit; starts as all pads.
  uint64_t context = 0;
  const auto digits = static_cast<size_t>(order_ - 1);
  for (size_t d = 0; d < digits; ++d) context += powers_[d] * (base_ - 1);
  for (size_t i = 0; i < record.size(); ++i) {
    const auto token = static_cast<uint64_t>(record[i]);
    AXIAL_CHECK(record[i] >= 0 && token + 1 < base_, "ngram", "token {} at position {}; expected 0 to {}",
                record[i], i, base_ - 2);
    if (i > 0) {
      pending_.push_back(context * base_ + token);
      if (pending_.size() >= kPendingKeys) flush();
    }
    if (digits > 0) context = context / base_ + token * powers_[digits - 1];
  }
}

void CountTrieBuilder::flush() {
  std::sort(pending_.begin(), pending_.end());
  Table merged;
  merged.keys.reserve(top_.keys.size() + pending_.size() / 4);
  merged.raw.reserve(top_.keys.size() + pending_.size() / 4);
  size_t old = 0;
  for (size_t i = 0; i < pending_.size();) {
    const uint64_t key = pending_[i];
    size_t end = i;
    while (end < pending_.size() && pending_[end] == key) ++end;
    for (; old < top_.keys.size() && top_.keys[old] < key; ++old) {
      merged.keys.push_back(top_.keys[old]);
      merged.raw.push_back(top_.raw[old]);
    }
    const bool known = old < top_.keys.size() && top_.keys[old] == key;
    merged.keys.push_back(key);
    merged.raw.push_back(static_cast<uint32_t>(end - i) + (known ? top_.raw[old] : 0));
    old += known ? 1 : 0;
    i = end;
  }
  const auto from = static_cast<std::ptrdiff_t>(old);
  merged.keys.insert(merged.keys.end(), top_.keys.begin() + from, top_.keys.end());
  merged.raw.insert(merged.raw.end(), top_.raw.begin() + from, top_.raw.end());
  top_ = std::move(merged);
  pending_.clear();
}

/// The table of one order less: the oldest context token is dropped; each gram there was one distinct
/// symbol to the left of what remains.
CountTrieBuilder::Table CountTrieBuilder::lower(const Table& table) const {
  Table out;
  std::vector<uint32_t> raw(base_), distinct(base_);
  std::vector<uint64_t> touched;
  for (size_t i = 0; i < table.keys.size();) {
    const uint64_t context = table.keys[i] / base_ / base_;
    touched.clear();
    for (; i < table.keys.size() && table.keys[i] / base_ / base_ == context; ++i) {
      const uint64_t token = table.keys[i] % base_;
      if (distinct[token]++ == 0) touched.push_back(token);
      raw[token] += table.raw[i];
    }
    std::sort(touched.begin(), touched.end());
    for (const uint64_t token : touched) {
      out.keys.push_back(context * base_ + token);
      out.raw.push_back(raw[token]);
      out.distinct.push_back(distinct[token]);
      raw[token] = distinct[token] = 0;
    }
  }
  return out;
}

/// `children` are the sorted contexts of the next level (null at the highest); `contexts` receives
/// those of this level.
CountTrie::Level CountTrieBuilder::level_of(const Table& table, const std::vector<uint64_t>* children,
                                            std::vector<uint64_t>& contexts) const {
  CountTrie::Level level;
  level.raw = table.raw;
  level.distinct = table.distinct;
  level.token.reserve(table.keys.size());
  size_t child = 0;
  for (size_t i = 0; i < table.keys.size();) {
    const uint64_t context = table.keys[i] / base_;
    contexts.push_back(context);
    level.context_token.push_back(static_cast<uint32_t>(context % base_));
    level.first_gram.push_back(static_cast<uint32_t>(i));
    ContextSums raw, distinct;
    for (; i < table.keys.size() && table.keys[i] / base_ == context; ++i) {
      level.token.push_back(static_cast<uint16_t>(table.keys[i] % base_));
      add_to(raw, table.raw[i]);
      if (children) add_to(distinct, table.distinct[i]);
    }
    level.raw_sums.push_back(raw);
    if (!children) continue;
    level.distinct_sums.push_back(distinct);
    level.first_child.push_back(static_cast<uint32_t>(child));
    while (child < children->size() && (*children)[child] / base_ == context) ++child;
  }
  level.first_gram.push_back(static_cast<uint32_t>(table.keys.size()));
  level.first_child.push_back(static_cast<uint32_t>(child));
  return level;
}

CountTrie CountTrieBuilder::build() {
  flush();
  AXIAL_CHECK(!top_.keys.empty(), "ngram", "no token to count; expected records of at least 2 tokens");
  pending_ = {};
  CountTrie trie;
  trie.levels_.resize(static_cast<size_t>(order_));
  Table table = std::move(top_);
  std::vector<uint64_t> children;
  for (int64_t k = order_; k >= 1; --k) {
    std::vector<uint64_t> contexts;
    trie.levels_[static_cast<size_t>(k - 1)] = level_of(table, k == order_ ? nullptr : &children, contexts);
    children = std::move(contexts);
    if (k > 1) table = lower(table);
  }
  return trie;
}

}  // namespace axial::data::detail
