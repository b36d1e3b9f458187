// SPDX-License-Identifier: Apache-2.0
#include "axial/data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"
#include "axial/data/testing/files.h"

namespace axial::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

std::vector<int32_t> ids(const Tokenizer& tokenizer, std::string_view text, EncodeCounts* counts = nullptr) {
  std::vector<int32_t> out;
  EncodeCounts own;
  tokenizer.encode(text, out, counts ? *counts : own);
  return out;
}

TEST(Tokenizer, CodonIdsAreGenslms) {
  const auto t = make_tokenizer({});
  EXPECT_EQ(t->vocab_size(), 69);
  EXPECT_EQ(t->token_name(0), "[UNK]");
  EXPECT_EQ(t->token_name(4), "[MASK]");
  EXPECT_EQ(t->token_name(5), "GGC");
  EXPECT_EQ(t->token_name(10), "ATG");
  EXPECT_EQ(t->token_name(65), "TAA");
  EXPECT_EQ(t->token_name(68), "TAG");
  EXPECT_THAT(t->stop_ids(), ElementsAre(65, 68, 67));
  EXPECT_THAT(ids(*t, "ATGGGCUAG"), ElementsAre(1, 10, 5, 68, 2));
  std::set<std::string> names;
  for (int64_t i = 0; i < t->vocab_size(); ++i) names.insert(t->token_name(i));
  EXPECT_EQ(names.size(), 69u);
  EXPECT_THAT(error_of([&] { t->token_name(69); }), HasSubstr("expected 0 to 68, got 69"));
}

TEST(Tokenizer, CodonFrameRaggedAmbiguousShort) {
  const auto t = make_tokenizer({.frame = 2, .bos = false, .eos = false});
  EncodeCounts counts;
  EXPECT_THAT(ids(*t, "CCATGNGCAR", &counts), ElementsAre(10, 0));
  EXPECT_EQ(counts.ragged, 1);
  EXPECT_EQ(counts.dropped_bases, 2);
  EXPECT_EQ(counts.unknown, 1);
  for (const char* bad : {"RTG", "ARG", "ATR", "NNN", "NAA"}) {
    EXPECT_THAT(ids(*make_tokenizer({}), bad), ElementsAre(1, 0, 2)) << bad;
  }
  for (const char* tiny : {"", "A", "CC", "CCATA"}) ids(*t, tiny, &counts);
  EXPECT_EQ(counts.too_short, 3);  // CCATA holds one codon behind the frame
  EXPECT_EQ(counts.records, 2);
  EXPECT_EQ(counts.tokens, 3);
}

TEST(Tokenizer, NucleotideAndByte) {
  const auto n = make_tokenizer({.kind = "nucleotide"});
  EXPECT_EQ(n->vocab_size(), 10);
  EXPECT_THAT(ids(*n, "GCATUNR"), ElementsAre(1, 5, 6, 7, 8, 8, 0, 0, 2));
  EXPECT_EQ(n->token_name(9), ".");
  EXPECT_TRUE(n->stop_ids().empty());
  const auto b = make_tokenizer({.kind = "byte", .eos = false});
  EXPECT_EQ(b->vocab_size(), 261);
  EXPECT_THAT(ids(*b, "MK*"), ElementsAre(1, 5 + 'M', 5 + 'K', 5 + '*'));
  EXPECT_EQ(b->token_name(5 + 'M'), "M");
  EXPECT_EQ(b->token_name(5 + 10), "0x0a");
  EXPECT_FALSE(b->reads_nucleotides());
}

TEST(Tokenizer, DecodeInvertsEncode) {
  const RngKey key{11};
  for (const char* kind : {"codon", "nucleotide", "byte"}) {
    const auto t = make_tokenizer({.kind = kind});
    for (uint64_t round = 0; round < 50; ++round) {
      std::string text;
      for (uint64_t i = 0; i < 3 * (1 + round); ++i) text += "ACGT"[random_below(key.child(round), i, 4)];
      EXPECT_EQ(t->decode(ids(*t, text)), text) << kind;
    }
  }
  EXPECT_EQ(make_tokenizer({})->decode(std::vector<int32_t>{1, 0, 10, 3, 2}), "NNNATG");
  EXPECT_THAT(error_of([] { make_tokenizer({})->decode(std::vector<int32_t>{69}); }),
              HasSubstr("out of range"));
  EXPECT_THAT(error_of([] { make_tokenizer({})->decode(std::vector<int32_t>{-1}); }),
              HasSubstr("out of range"));
}

TEST(Tokenizer, OnlySymbolsOfSequencesMayBeGenerated) {
  const auto generated = [](const char* kind) {
    const auto t = make_tokenizer({.kind = kind});
    std::string text;
    for (int32_t id = -1; id <= t->vocab_size(); ++id) {
      if (t->may_generate(id)) text += t->decode(std::vector<int32_t>{id});
    }
    return text;
  };
  EXPECT_EQ(generated("codon").size(), 3u * 64);
  EXPECT_EQ(generated("nucleotide"), "GCAT");
  EXPECT_EQ(generated("byte"), "*-ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  const auto byte = make_tokenizer({.kind = "byte"});
  EXPECT_THAT(byte->encode_prompt("m*\n-"), ElementsAre(1, 5 + 'M', 5 + '*', 5 + '-'));
  EXPECT_THAT(error_of([&] { byte->encode_prompt("M>K"); }), HasSubstr("character 2"));
}

TEST(Tokenizer, Prompts) {
  const auto t = make_tokenizer({});
  EXPECT_THAT(t->encode_prompt("atg ggc"), ElementsAre(1, 10, 5));
  EXPECT_THAT(t->encode_prompt(""), ElementsAre(1));
  EXPECT_THAT(error_of([&] { t->encode_prompt("ATGG"); }), HasSubstr("multiple of 3"));
  EXPECT_THAT(error_of([&] { t->encode_prompt("ATE"); }), HasSubstr("character 3"));
}

TEST(Tokenizer, DescriptionRoundTrip) {
  for (const TokenizerOptions& options :
       {TokenizerOptions{.frame = 1, .eos = false}, TokenizerOptions{.kind = "nucleotide", .bos = false},
        TokenizerOptions{.kind = "byte"}}) {
    const auto t = make_tokenizer(options);
    const auto again = tokenizer_from_json(nlohmann::json::parse(t->to_json().dump()));
    EXPECT_EQ(again->options(), options);
    EXPECT_EQ(again->to_json(), t->to_json());
  }
  nlohmann::json other = make_tokenizer({})->to_json();
  other["vocab_hash"] = "0";
  EXPECT_THAT(error_of([&] { tokenizer_from_json(other); }), HasSubstr("does not fit this version"));
  other.erase("frame");
  EXPECT_THAT(error_of([&] { tokenizer_from_json(other); }), HasSubstr("frame"));
  EXPECT_THAT(error_of([] { make_tokenizer({.kind = "codons"}); }), HasSubstr("did you mean 'codon'"));
  EXPECT_THAT(error_of([] { make_tokenizer({.frame = 3}); }), HasSubstr("expected 0, 1 or 2, got 3"));
  EXPECT_THAT(error_of([] { make_tokenizer({.kind = "byte", .frame = 1}); }),
              HasSubstr("frame is for codons"));
}

}  // namespace
}  // namespace axial::data
