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

double interpolate(const NgramWeights& model, std::span<const LevelCounts> levels, int64_t vocab_size) {
  double p = 1.0 / static_cast<double>(vocab_size);
  for (size_t k = 0; k < static_cast<size_t>(model.order); ++k) {
    const LevelCounts& at = levels[k];
    const bool occurrences =
        model.smoothing == Smoothing::kPitmanYor || k + 1 == static_cast<size_t>(model.order);
    const detail::ContextSums& sums = occurrences ? at.raw_sums : at.distinct_sums;
    if (sums.total == 0) break;  // an unseen context: the shorter one answers, longer ones are unseen too
    const uint32_t count = occurrences ? at.raw : at.distinct;
    const detail::Discounts& d = model.discounts[k];
    const double own = count == 0 ? 0.0 : count - d[std::min(count, 3u) - 1];
    const double freed = d[0] * sums.ones + d[1] * sums.twos + d[2] * (at.types - sums.ones - sums.twos);
    const double strength = model.strengths[k];
    p = (own + (freed + strength) * p) / (sums.total + strength);
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

double NgramModel::ln_probability(const NgramWeights& model, std::span<const int32_t> prefix,
                                  int32_t token) const {
  const auto levels_used = static_cast<size_t>(model.order);
  AXIAL_CHECK(
      model.order >= 1 && model.order <= order() && model.discounts.size() == levels_used &&
          model.strengths.size() == levels_used,
      "ngram",
      "model of order {} with {} discounts and {} strengths; expected order 1 to {} and as many of both",
      model.order, model.discounts.size(), model.strengths.size(), order());
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

NgramWeights NgramModel::estimated(int64_t n, Smoothing smoothing) const {
  AXIAL_CHECK(n >= 1 && n <= order(), "ngram", "order {}; expected 1 to {}", n, order());
  const double strength = smoothing == Smoothing::kPitmanYor ? 1.0 : 0.0;
  NgramWeights model{n, {}, std::vector<double>(static_cast<size_t>(n), strength), smoothing};
  for (int64_t k = 1; k <= n; ++k)
    model.discounts.push_back(trie_.estimated_discounts(k, k < n && smoothing == Smoothing::kKneserNey));
  return model;
}

}  // namespace axial::data
