// SPDX-License-Identifier: Apache-2.0
// n-gram models against a slow direct implementation over maps, sums to one, tuning, limits.
#include "axial/data/ngram/ngram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"
#include "axial/data/ngram/baselines.h"

namespace axial::data {
namespace {

using Record = std::vector<int32_t>;
using Corpus = std::vector<Record>;

TokenRecords over(const Corpus& corpus) {
  return [&corpus](const std::function<void(std::span<const int32_t>)>& visit) {
    for (const Record& record : corpus) visit(record);
  };
}

/// Records of a random second-order chain: BOS 1, tokens 3 .. vocab - 1, EOS 2.
Corpus random_corpus(uint64_t seed, int64_t records, int64_t length, int32_t vocab, bool marks = true) {
  const RngKey key = root_key(seed).child("ngram_test");
  Corpus corpus;
  uint64_t index = 0;
  for (int64_t r = 0; r < records; ++r) {
    Record record;
    if (marks) record.push_back(1);
    uint64_t a = 0, b = 0;
    for (int64_t i = 0; i < length; ++i) {
      const auto symbols = static_cast<uint64_t>(vocab - 3);
      const uint64_t next = random_uniform(key, index++) < 0.6 ? (3 * a + b + 1) % symbols
                                                               : random_below(key, index++, symbols);
      record.push_back(static_cast<int32_t>(3 + next));
      a = b;
      b = next;
    }
    if (marks) record.push_back(2);
    corpus.push_back(record);
  }
  return corpus;
}

/// Kneser-Ney written down from the formula: maps from padded grams to counts, sets of left symbols.
class DirectModel {
 public:
  DirectModel(const Corpus& corpus, int32_t vocab, int64_t order) : vocab_(vocab) {
    for (const Record& record : corpus) {
      for (size_t i = 1; i < record.size(); ++i) {
        for (int64_t k = 1; k <= order; ++k) {
          const Record gram = gram_at(record, i, k);
          const Record longer = gram_at(record, i, k + 1);
          ++raw_[gram];
          left_[gram].insert(longer.front());
        }
      }
    }
  }
  double probability(const NgramWeights& model, const Record& record, size_t at, int64_t k) const {
    if (k == 0) return 1.0 / vocab_;
    const Record gram = gram_at(record, at, k);
    const detail::Discounts& d = model.discounts[static_cast<size_t>(k - 1)];
    const bool occurrences = k == model.order || model.smoothing == Smoothing::kPitmanYor;
    double total = 0, freed = 0, own = 0;
    for (int32_t w = 0; w < vocab_; ++w) {
      Record other = gram;
      other.back() = w;
      const auto found = raw_.find(other);
      if (found == raw_.end()) continue;
      const double count = occurrences ? found->second : static_cast<double>(left_.at(other).size());
      total += count;
      const double discount = count == 1 ? d[0] : count == 2 ? d[1] : d[2];
      freed += discount;
      if (w == record[at]) own = count - discount;
    }
    const double lower = probability(model, record, at, k - 1);
    const double strength = model.strengths[static_cast<size_t>(k - 1)];
    return total == 0 ? lower : (own + (freed + strength) * lower) / (total + strength);
  }

 private:
  Record gram_at(const Record& record, size_t at, int64_t k) const {
    Record gram;
    for (int64_t j = static_cast<int64_t>(at) - k + 1; j <= static_cast<int64_t>(at); ++j) {
      gram.push_back(j < 0 ? vocab_ : record[static_cast<size_t>(j)]);
    }
    return gram;
  }
  int32_t vocab_;
  std::map<Record, int64_t> raw_;
  std::map<Record, std::set<int32_t>> left_;
};

TEST(Ngram, EqualsTheDirectImplementation) {
  for (const auto& [marks, smoothing] : std::vector<std::pair<bool, Smoothing>>{
           {true, Smoothing::kKneserNey}, {false, Smoothing::kKneserNey}, {true, Smoothing::kPitmanYor}}) {
    const Corpus train = random_corpus(1, 30, 25, 9, marks), test = random_corpus(2, 5, 25, 9, marks);
    const NgramModel model = NgramModel::fit(over(train), 9, {.order = 4});
    const DirectModel direct(train, 9, 4);
    for (int64_t n = 1; n <= 4; ++n) {
      const double strength = smoothing == Smoothing::kPitmanYor ? 2.5 : 0.0;
      const std::vector<detail::Discounts> all{{0.3, 0.7, 1.1}, {0.9, 1.9, 3}, {0.6, 0.2, 0.4}, {1, 2, 2.5}};
      const NgramWeights cut{n,
                             {all.begin(), all.begin() + n},
                             std::vector<double>(static_cast<size_t>(n), strength),
                             smoothing};
      for (const Record& record : test) {
        for (size_t i = 1; i < record.size(); ++i) {
          const double got = model.ln_probability(cut, std::span(record).first(i), record[i]);
          EXPECT_NEAR(got, std::log(direct.probability(cut, record, i, n)), 1e-12)
              << "n " << n << " at " << i;
        }
      }
    }
  }
}

TEST(Ngram, SumsToOneInAnyContext) {
  const Corpus train = random_corpus(3, 40, 50, 12);
  const NgramModel model = NgramModel::fit(over(train), 12, {.order = 5});
  const RngKey key = root_key(4);
  for (uint64_t trial = 0; trial < 60; ++trial) {
    // Half of the contexts come from the data, half are noise with symbols never seen (0) too.
    Record prefix;
    const uint64_t length = random_below(key, 10 * trial, 9);
    const Record& source = train[random_below(key, 10 * trial + 1, train.size())];
    for (uint64_t i = 0; i < length; ++i) {
      prefix.push_back(trial % 2 ? source[i] : static_cast<int32_t>(random_below(key, 1000 * trial + i, 12)));
    }
    for (int64_t n = 1; n <= 5; ++n) {
      double sum = 0, unigram = 0;
      for (int32_t w = 0; w < 12; ++w) {
        const Smoothing smoothing = trial % 3 ? Smoothing::kKneserNey : Smoothing::kPitmanYor;
        sum += std::exp(model.ln_probability(model.estimated(n, smoothing), prefix, w));
        unigram += std::exp(model.ln_unigram(w));
      }
      EXPECT_NEAR(sum, 1.0, 1e-12);
      EXPECT_NEAR(unigram, 1.0, 1e-12);
    }
  }
}

TEST(Ngram, OddRecordsAndTheLargestVocabulary) {
  const Corpus corpus{{}, {1}, {1, 2}, {65535, 65535, 0}, {1, 65535}};
  const NgramModel model = NgramModel::fit(over(corpus), 65536, {.order = 3});
  EXPECT_EQ(model.num_tokens(), 4);
  EXPECT_EQ(model.num_grams(1), 3);
  const detail::Discounts half{0.5, 0.5, 0.5};
  const NgramWeights kn{3, {half, half, half}, {0, 0, 0}};
  // After a lone 1: {2, 65535} once each; each left symbol of the pair (1, w) is the pad.
  const double unigram = (1 - 0.5) / 4 + 0.5 * 3 / 4 / 65536;  // 2: {1}; 65535: {65535, 1}; 0: {65535}
  const double bigram = (1 - 0.5) / 2 + 0.5 * 2 / 2 * unigram;
  EXPECT_NEAR(std::exp(model.ln_probability(kn, Record{1}, 2)), 0.25 + 0.5 * bigram, 1e-15);
  EXPECT_EQ(NgramModel::max_order(65536), 3);
  EXPECT_EQ(NgramModel::max_order(69), 10);
  EXPECT_THROW(NgramModel::fit(over(corpus), 65536, {.order = 4}), UnsupportedError);
  EXPECT_THROW(NgramModel::fit(over(corpus), 65535, {.order = 2}), ValueError)
      << "token 65535 is out of range";
  EXPECT_THROW(NgramModel::fit(over({{1}}), 8, {.order = 2}), ValueError) << "nothing to predict";
  EXPECT_THROW(model.ln_probability(kn, Record{1}, -1), ValueError);
  EXPECT_THROW(model.ln_probability({4, {half, half, half, half}, {0, 0, 0, 0}}, Record{1}, 2), ValueError);
}

TEST(Baselines, CountThePredictedTokensAndFindTheOrder) {
  const Corpus train = random_corpus(5, 200, 60, 13), test = random_corpus(6, 40, 60, 13);
  const NgramModel model = NgramModel::fit(over(train), 13, {.order = 6});
  const BaselineTable table = compute_baselines(model, over(test));
  ASSERT_EQ(table.rows.size(), 12u);
  for (const BaselineRow& row : table.rows) EXPECT_EQ(row.tokens, 40 * 61) << "all but BOS, EOS included";
  EXPECT_NEAR(table.rows[0].perplexity, 13.0, 1e-12);
  double unigram = 0;
  for (const Record& record : test) {
    for (size_t i = 1; i < record.size(); ++i) unigram -= model.ln_unigram(record[i]);
  }
  EXPECT_NEAR(table.rows[1].nats, unigram / (40 * 61), 1e-12);
  EXPECT_GT(table.rows[2].nats, table.rows[3].nats + 0.3) << "the source looks back two tokens";
  for (size_t i = 7; i < 12; ++i) EXPECT_NEAR(table.rows[i].nats, table.rows[8].nats, i > 7 ? 0.01 : 1) << i;
  EXPECT_EQ(table.rows[2].name, "2-gram Kneser-Ney");
  EXPECT_EQ(table.rows[11].name, "6-gram Pitman-Yor");
  // Order 3 knows the source: 0.6 on one symbol, the rest spread evenly over 10.
  const double truth = -(0.64 * std::log(0.64) + 9 * 0.04 * std::log(0.04)) * 60 / 61;
  EXPECT_GT(table.best_ngram().nats, truth);
  EXPECT_LT(table.best_ngram().nats, truth + 0.15);
  EXPECT_THAT(table.render(), testing::HasSubstr("2,440"));
}

TEST(Baselines, TunedWeightsAreAMinimum) {
  const Corpus train = random_corpus(7, 60, 40, 10), test = random_corpus(8, 30, 40, 10);
  const NgramModel model = NgramModel::fit(over(train), 10, {.order = 4});
  const auto nats = [&](const NgramWeights& kn) {
    double sum = 0;
    for (const Record& record : test) {
      for (size_t i = 1; i < record.size(); ++i) {
        sum -= model.ln_probability(kn, std::span(record).first(i), record[i]);
      }
    }
    return sum / (30 * 41);
  };
  for (const Smoothing smoothing : {Smoothing::kKneserNey, Smoothing::kPitmanYor}) {
    const NgramWeights tuned = tune_weights(model, over(test), 4, smoothing);
    const double best = nats(tuned);
    EXPECT_LT(best, nats(model.estimated(4, smoothing)));
    for (size_t k = 0; k < 4; ++k) {
      for (const double step : {-0.05, 0.05}) {
        NgramWeights moved = tuned;
        for (size_t c = 0; c < 3; ++c) {
          moved = tuned;
          double& discount = moved.discounts[k][c];
          discount = std::clamp(discount + step, 1e-3, static_cast<double>(c + 1));
          EXPECT_GE(nats(moved), best - 1e-5) << "level " << k + 1 << " count " << c + 1 << " by " << step;
        }
        moved = tuned;
        moved.strengths[k] *= 1 + 4 * step;
        EXPECT_GE(nats(moved), best - 1e-5) << "strength of level " << k + 1;
      }
    }
  }
  const double best = nats(tune_weights(model, over(test), 4));
  // A sample of a third of the tokens finds nearly the same.
  EXPECT_NEAR(nats(tune_weights(model, over(test), 4, Smoothing::kKneserNey, 410)), best, 0.01);
}

TEST(Baselines, BadInputIsRefused) {
  const Corpus train = random_corpus(9, 10, 10, 8);
  const NgramModel model = NgramModel::fit(over(train), 8, {.order = 3});
  EXPECT_THROW(compute_baselines(model, over({})), ValueError);
  EXPECT_THROW(compute_baselines(model, over({{1, 8}})), ValueError);
  EXPECT_THROW(compute_baselines(model, over(train), {.min_order = 3, .max_order = 2}), ValueError);
  EXPECT_THROW(compute_baselines(model, over(train), {.tuning_tokens = 0}), ValueError);
}

}  // namespace
}  // namespace axial::data
