// SPDX-License-Identifier: Apache-2.0
#include "axial/data/split/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "axial/core/rng/rng.h"
#include "axial/data/split/sketch.h"
#include "axial/data/testing/files.h"
#include "axial/data/token_cache/token_cache.h"

namespace axial::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

std::string random_bases(RngKey key, int64_t length) {
  std::string text;
  for (int64_t i = 0; i < length; ++i) text += "ACGT"[random_below(key, static_cast<uint64_t>(i), 4)];
  return text;
}

// `text` with each base replaced with probability `rate`.
std::string mutate(std::string text, double rate, RngKey key) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (random_uniform(key, i) < rate) text[i] = "ACGT"[random_below(key.child("to"), i, 4)];
  }
  return text;
}

std::string reverse_complement(std::string text) {
  std::reverse(text.begin(), text.end());
  for (char& c : text) c = c == 'A' ? 'T' : c == 'C' ? 'G' : c == 'G' ? 'C' : 'A';
  return text;
}

struct Records {
  std::vector<uint64_t> hashes;
  std::vector<int64_t> tokens;
  std::vector<std::string> texts;
  void add(const std::string& text) {
    hashes.push_back(RngKey{5}.child(text).value);
    tokens.push_back(static_cast<int64_t>(text.size()));
    texts.push_back(text);
  }
  SplitInput input() const {
    return {hashes, tokens, [this](int64_t i, std::string& text) { text = texts[static_cast<size_t>(i)]; },
            true};
  }
};

TEST(Split, PlainIsAFunctionOfHashSeedFraction) {
  std::vector<uint64_t> hashes;
  for (uint64_t i = 0; i < 20000; ++i)
    hashes.push_back(random_bits(RngKey{3}, i / 2));  // every content twice
  const std::vector<int64_t> tokens(hashes.size(), 10);
  const SplitOptions options{.validation_fraction = 0.1};
  const Split all = split_records({hashes, tokens, nullptr}, options, 42);
  EXPECT_NEAR(static_cast<double>(all.report.validation_records) / 20000, 0.1, 0.01);
  EXPECT_EQ(all.report.validation_tokens, 10 * all.report.validation_records);
  EXPECT_EQ(all.report.distinct, 10000);
  for (size_t i = 0; i < hashes.size(); i += 2) EXPECT_EQ(all.validation[i], all.validation[i + 1]);
  // A subset in another order: nobody changes sides.
  std::vector<uint64_t> some;
  std::vector<uint8_t> expected;
  for (size_t i = hashes.size(); i-- > 5000;) {
    some.push_back(hashes[i]);
    expected.push_back(all.validation[i]);
  }
  EXPECT_EQ(split_records({some, std::vector<int64_t>(some.size(), 10), nullptr}, options, 42).validation,
            expected);
  EXPECT_NE(split_records({hashes, tokens, nullptr}, options, 43).validation, all.validation);
  EXPECT_EQ(split_records({hashes, tokens, nullptr}, {.validation_fraction = 0}, 1).report.validation_records,
            0);
}

TEST(Split, SmallSetsFillBothSides) {
  for (uint64_t n = 2; n < 12; ++n) {
    std::vector<uint64_t> hashes;
    for (uint64_t i = 0; i < n; ++i) hashes.push_back(random_bits(RngKey{n}, i));
    const std::vector<int64_t> tokens(n, 1);
    for (const double fraction : {0.001, 0.999}) {
      const Split split = split_records({hashes, tokens, nullptr}, {.validation_fraction = fraction}, 1);
      EXPECT_GE(split.report.validation_records, 1);
      EXPECT_LT(split.report.validation_records, static_cast<int64_t>(n));
    }
  }
  const std::vector<uint64_t> one{7, 7};
  const std::vector<int64_t> tokens{1, 1};
  const Split split = split_records({one, tokens, nullptr}, {.validation_fraction = 0.9999}, 1);
  EXPECT_EQ(split.report.validation_records, 0);
  EXPECT_THAT(split.report.notes.at(0), HasSubstr("only one distinct record"));
}

TEST(Split, RefusesBadOptions) {
  for (const double fraction : {-0.1, 1.0, std::nan("")}) {
    EXPECT_THAT(error_of([&] { SplitOptions{.validation_fraction = fraction}.validate(); }),
                HasSubstr("validation_fraction"));
  }
  EXPECT_THAT(error_of([] { SplitOptions{.near_duplicate_identity = 0.5}.validate(); }),
              HasSubstr("0.8 to 1"));
}

TEST(Split, SketchEstimatesIdentity) {
  const RngKey key{9};
  for (const double rate : {0.0, 0.01, 0.04}) {
    double sum = 0;
    for (uint64_t trial = 0; trial < 20; ++trial) {
      const std::string a = random_bases(key.child(trial), 30000);
      const std::string b = reverse_complement(mutate(a, rate, key.child("m").child(trial)));
      sum += detail::similarity(detail::make_sketch(a, true), detail::make_sketch(b, true));
    }
    // A replaced base is another one in 3 of 4 draws.
    EXPECT_NEAR(sum / 20, detail::similarity_at_identity(1 - 0.75 * rate, 21), 0.04) << rate;
  }
  const detail::Sketch empty = detail::make_sketch("ACGT", true);
  EXPECT_EQ(detail::similarity(empty, empty), 0);
}

TEST(Split, NearDuplicatesStayTogether) {
  Records records;
  const RngKey key{21};
  constexpr uint64_t kFamilies = 60;
  constexpr uint64_t kMembers = 5;
  for (uint64_t family = 0; family < kFamilies; ++family) {
    const std::string ancestor = random_bases(key.child(family), 900);
    for (uint64_t m = 0; m < kMembers; ++m) {
      const std::string text = mutate(ancestor, 0.01, key.child("m").child(family * 100 + m));
      records.add(m % 2 ? reverse_complement(text) : text);
    }
  }
  const SplitOptions options{
      .validation_fraction = 0.2, .keep_near_duplicates_together = true, .near_duplicate_identity = 0.95};
  const Split split = split_records(records.input(), options, 4);
  EXPECT_EQ(split.report.clusters, static_cast<int64_t>(kFamilies));
  EXPECT_EQ(split.report.largest_cluster, static_cast<int64_t>(kMembers));
  EXPECT_EQ(split.report.identity_used, 0.95);
  EXPECT_NEAR(static_cast<double>(split.report.validation_records) / (kFamilies * kMembers), 0.2, 0.03);
  for (uint64_t i = 0; i < kFamilies * kMembers; ++i) {
    EXPECT_EQ(split.validation[i], split.validation[i / kMembers * kMembers]) << i;
  }
  // The order of the records does not matter.
  Records shuffled;
  const RandomPermutation order(key.child("order"), kFamilies * kMembers);
  for (uint64_t i = 0; i < kFamilies * kMembers; ++i) shuffled.add(records.texts[order(i)]);
  const Split again = split_records(shuffled.input(), options, 4);
  for (uint64_t i = 0; i < kFamilies * kMembers; ++i)
    EXPECT_EQ(again.validation[i], split.validation[order(i)]);
}

TEST(Split, OneGiantClusterRaisesTheThreshold) {
  Records records;
  const RngKey key{22};
  const std::string root = random_bases(key, 20000);
  for (uint64_t lineage = 0; lineage < 20; ++lineage) {
    const std::string ancestor = mutate(root, 0.01, key.child(lineage));
    for (uint64_t m = 0; m < 4; ++m) {
      records.add(mutate(ancestor, 0.0002, key.child("m").child(lineage * 10 + m)));
    }
  }
  const SplitOptions options{.validation_fraction = 0.1, .keep_near_duplicates_together = true};
  const Split split = split_records(records.input(), options, 4);
  EXPECT_GT(split.report.identity_used, 0.95);
  EXPECT_LT(split.report.identity_used, 1);
  EXPECT_THAT(split.report.notes.at(0), HasSubstr("largest of 1 clusters holds 100.0 %"));
  EXPECT_GE(split.report.validation_records, 4);
  EXPECT_LE(split.report.validation_records, 12);
  for (size_t i = 0; i < 80; ++i) EXPECT_EQ(split.validation[i], split.validation[i / 4 * 4]) << i;
}

TEST(Split, WithoutAnyThresholdOnlyCopiesStayTogether) {
  Records records;
  const std::string root = random_bases(RngKey{1}, 20000);
  for (size_t i = 0; i < 40; ++i) {
    const std::string text = root + std::string(1 + i, 'N');  // no k-mer differs
    records.add(text);
    records.add(text);
  }
  const Split split =
      split_records(records.input(), {.validation_fraction = 0.3, .keep_near_duplicates_together = true}, 4);
  EXPECT_EQ(split.report.identity_used, 1);
  EXPECT_THAT(split.report.notes.back(), HasSubstr("only identical records"));
  EXPECT_GT(split.report.validation_records, 0);
  for (size_t i = 0; i < 80; i += 2) EXPECT_EQ(split.validation[i], split.validation[i + 1]);
}

TEST(Split, RealGenomes) {
  AXIAL_GENOME_FILE(file, "sarscov2_consensus_4096.fasta.zst");
  const auto tokenizer = make_tokenizer({});
  const auto store = open_token_store({file}, *tokenizer, "none").store;
  std::vector<uint64_t> hashes;
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < store->num_records(); ++i) {
    hashes.push_back(store->content_hash(i));
    tokens.push_back(store->length(i));
  }
  std::vector<int32_t> ids;
  const auto text_of = [&](int64_t record, std::string& text) {
    ids.resize(static_cast<size_t>(store->length(record)));
    store->copy<int32_t>(record, 0, ids);
    text = tokenizer->decode(ids);
  };
  const Split split = split_records({hashes, tokens, text_of}, {.keep_near_duplicates_together = true}, 1);
  // Genomes of one virus: a single cluster at 95 %.
  EXPECT_GT(split.report.identity_used, 0.95);
  EXPECT_FALSE(split.report.notes.empty());
  const double share = static_cast<double>(split.report.validation_records) / 4096;
  EXPECT_GT(share, 0.02);
  EXPECT_LT(share, 0.08);
  RecordProperty("identity", std::to_string(split.report.identity_used));
  RecordProperty("clusters", std::to_string(split.report.clusters));
}

}  // namespace
}  // namespace axial::data
