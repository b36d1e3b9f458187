// SPDX-License-Identifier: Apache-2.0
// Fitting and probabilities of ngram.h.
#include "axial/data/ngram/ngram.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "axial/core/check/check.h"

namespace axial::data {
namespace {

using detail::LevelCounts;

constexpr size_t kMaxOrder = 64;  // base 2 is the smallest: 63 digits fit 64 bits

}  // namespace

double interpolate(const KneserNey& model, std::span<const LevelCounts> levels, int64_t vocab_size) {
  double p = 1.0 / static_cast<double>(vocab_size);
  for (size_t k = 0; k < static_cast<size_t>(model.order); ++k) {
    const LevelCounts& at = levels[k];
    const bool highest = k + 1 == static_cast<size_t>(model.order);
    const double total = highest ? at.raw_total : at.distinct_total;
    if (total == 0) break;  // an unseen context: the shorter one answers, longer ones are unseen too
    const double count = highest ? at.raw : at.distinct;
    const double discount = model.discounts[k];
    p = std::max(count - discount, 0.0) / total + discount * at.types / total * p;
  }
  return p;
}

int64_t NgramModel::max_order(int64_t vocab_size) { return detail::CountTrieBuilder::max_order(vocab_size); }

NgramModel NgramModel::fit(const TokenRecords& records, int64_t vocab_size, const NgramOptions& options,
                           const std::function<void(int64_t)>& on_tokens) {
  NgramModel model;
  model.vocab_size_ = vocab_size;
  detail::CountTrieBuilder builder(options.order, vocab_size);
  int64_t seen = 0;
  records([&](std::span<const int32_t> record) {
    builder.add_record(record);
    seen += static_cast<int64_t>(record.size());
    model.num_tokens_ += std::max<int64_t>(static_cast<int64_t>(record.size()) - 1, 0);
    if (on_tokens) on_tokens(seen);
  });
  model.trie_ = builder.build();
  return model;
}

void NgramModel::check_token(int32_t token) const {
  AXIAL_CHECK(token >= 0 && token < vocab_size_, "ngram", "token {}; expected 0 to {}", token,
              vocab_size_ - 1);
}

void NgramModel::find(std::span<const int32_t> record, size_t at, std::span<LevelCounts> out) const {
  std::array<uint32_t, kMaxOrder> reversed;
  const auto length = static_cast<size_t>(order() - 1);
  for (size_t back = 1; back <= length; ++back) {
    reversed[back - 1] = static_cast<uint32_t>(back <= at ? record[at - back] : vocab_size_);
  }
  trie_.find(std::span(reversed).first(length), static_cast<uint32_t>(record[at]), out);
}

double NgramModel::ln_probability(const KneserNey& model, std::span<const int32_t> prefix,
                                  int32_t token) const {
  AXIAL_CHECK(model.order >= 1 && model.order <= order() &&
                  model.discounts.size() == static_cast<size_t>(model.order),
              "ngram", "model of order {} with {} discounts; expected order 1 to {} and as many discounts",
              model.order, model.discounts.size(), order());
  check_token(token);
  std::array<int32_t, kMaxOrder> tail;
  std::array<LevelCounts, kMaxOrder> levels;
  const size_t kept = std::min(prefix.size(), static_cast<size_t>(order() - 1));
  std::copy(prefix.end() - static_cast<std::ptrdiff_t>(kept), prefix.end(), tail.begin());
  for (size_t i = 0; i < kept; ++i) check_token(tail[i]);
  tail[kept] = token;
  const auto out = std::span(levels).first(static_cast<size_t>(order()));
  find(std::span(tail).first(kept + 1), kept, out);
  return std::log(interpolate(model, out, vocab_size_));
}

double NgramModel::ln_unigram(int32_t token) const {
  check_token(token);
  const int32_t padded[] = {token};
  std::array<LevelCounts, kMaxOrder> levels;
  find(padded, 0, std::span(levels).first(static_cast<size_t>(order())));
  return std::log((levels[0].raw + 1.0) / static_cast<double>(num_tokens_ + vocab_size_));
}

KneserNey NgramModel::estimated(int64_t n) const {
  AXIAL_CHECK(n >= 1 && n <= order(), "ngram", "order {}; expected 1 to {}", n, order());
  KneserNey model{n, {}};
  for (int64_t k = 1; k <= n; ++k) model.discounts.push_back(trie_.estimated_discount(k, k < n));
  return model;
}

}  // namespace axial::data
