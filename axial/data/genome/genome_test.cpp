// SPDX-License-Identifier: Apache-2.0
#include "axial/data/genome/genome.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "axial/core/recipe/recipe.h"
#include "axial/core/rng/rng.h"
#include "axial/data/testing/files.h"

namespace axial::data {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempFolder;

std::string random_fasta(uint64_t seed, uint64_t records, uint64_t codons) {
  std::string text;
  for (uint64_t r = 0; r < records; ++r) {
    text += fmt::format(">s{}_{}\nATG", seed, r);
    const RngKey key = RngKey{seed}.child(r);
    const uint64_t bases = 3 * (1 + random_below(key, 0, codons));
    for (uint64_t i = 0; i < bases; ++i) text += "ACGT"[random_below(key, i + 1, 4)];
    text += "TAA\n";
  }
  return text;
}

TEST(Genome, GivenValidationFilesReplaceTheSplit) {
  const TempFolder folder;
  folder.write("train.fa", random_fasta(1, 30, 20));
  folder.write("held.fa", random_fasta(2, 7, 20));
  GenomeDataOptions options{.files = {(folder.path() / "train.fa").string()}, .cache = "none"};
  options.sequence_length = 16;
  options.validation_files = {(folder.path() / "held.fa").string()};
  const GenomeData data = open_genome_data(options, 1);
  const auto count = [](const RecordWalk& walk) {
    std::pair<int64_t, int64_t> records_and_labels{0, 0};
    walk([&](std::span<const int32_t> ids) {
      EXPECT_EQ(ids.front(), SpecialIds::kBegin);
      records_and_labels.first += 1;
      records_and_labels.second += static_cast<int64_t>(ids.size()) - 1;
    });
    return records_and_labels;
  };
  EXPECT_EQ(count(data.train_records).first, 30);
  EXPECT_EQ(count(data.validation_records).first, 7);
  EXPECT_EQ(data.report.split.validation_records, 7);
  // The walk predicts what the rows predict: every token but the first of its record.
  double labels = 0;
  for (int64_t r = 0; r < data.validation->num_rows(); ++r) labels += data.validation->rows(r, 1).weight;
  EXPECT_EQ(labels, static_cast<double>(count(data.validation_records).second));
  const std::string content = data.report.content;
  EXPECT_EQ(open_genome_data(options, 2).report.content, content);
  folder.write("held.fa", random_fasta(3, 7, 20));
  EXPECT_NE(open_genome_data(options, 1).report.content, content);
}

TEST(Genome, BadInputIsAnErrorOrACountedWarning) {
  const TempFolder folder;
  std::filesystem::create_directory(folder.path() / "empty");
  folder.write("good.fa", ">a\nATGGGCTAA\n>b\nATGTAA\n>c\nATGGTGTAA\n");
  struct Case {
    std::string name;
    std::string content;
    std::string error;    // "" when it opens
    std::string warning;  // "" when nothing is to be said
  };
  const std::string good = ">a\nATGGGCTAA\n>b\nATGTAA\n";
  const std::string protein = ">p\nMKVLAAGIVGLCAKAYEIPQWFHDENRST\n";
  const std::vector<Case> cases{
      {"missing.fa", "", "no such file", ""},
      {"god.fa", "", "did you mean 'good.fa'", ""},
      {"empty", "", "no FASTA file", ""},
      {"*.zzz", "", "no file matches", ""},
      {"zero.fa", " ", "no record", ""},
      {"blank.fa", "\n\n", "only blank lines", ""},
      {"text.fa", "hello world\n", "before the first header", ""},
      {"prose.fa", ">a\nhello, world: 12 things\n", "prose.fa:2:2", ""},
      {"protein.fa", protein, "this looks like protein", ""},
      {"late_protein.fa", good + protein, "late_protein.fa:6:4", ""},
      {"binary.fa", std::string("\x00\x01\x02\x03", 4), "binary data", ""},
      {"cut.fa", testing::gzip_bytes(good).substr(0, 20), "truncated gzip", ""},
      {"tiny.fa", ">a\nAC\n", "shorter than one token", ""},
      {"only_empty.fa", ">a\n>b\n", "2 are empty", ""},
      {"ragged.fa", good + ">c\nATGGGCTA\n>d\nATGG\n", "",
       "2 records with a length that is no multiple of 3"},
      {"short.fa", good + ">c\nAT\n", "", "1 record (c) shorter than one codon: left out"},
      {"holes.fa", good + ">c\n>d\nATGTAA\n", "", "1 record (c) without a sequence"},
      {"unknown.fa", good + ">c\nATGNNNTAR\n", "", "2 tokens (14.286 %) are unknown"},
      {"names.fa", good + ">a\nATGTTTTAA\n", "", "1 record with a name that an earlier record has"},
      {"copies.fa", good + ">c\nATGGGCTAA\n", "", "1 record with the sequence of an earlier record"},
      {"gaps.fa", good + ">c\nATG---TAA\n", "", "3 gap characters"},
      {"nameless.fa", good + ">\nATGTTTTAA\n", "", "1 record without a name"},
      {"fine.fa", good, "", ""},
  };
  for (const Case& c : cases) {
    if (!c.content.empty()) folder.write(c.name, c.content == " " ? "" : c.content);
    GenomeDataOptions options{.files = {(folder.path() / c.name).string()}, .cache = "none"};
    options.sequence_length = 16;
    options.split.validation_fraction = 0;
    GenomeReport report;
    const std::string error = error_of([&] { report = open_genome_data(options, 1).report; });
    if (c.error.empty()) {
      EXPECT_EQ(error, "") << c.name;
    } else {
      EXPECT_THAT(error, HasSubstr(c.error)) << c.name;
    }
    if (c.warning.empty()) {
      EXPECT_THAT(report.warnings, IsEmpty()) << c.name;
    } else {
      EXPECT_THAT(report.warnings, Contains(HasSubstr(c.warning))) << c.name;
    }
  }
}

TEST(Genome, SidesAreDisjointAndStable) {
  const TempFolder folder;
  const std::string a = folder.write("a.fa", random_fasta(1, 150, 40));
  const std::string b = folder.write("b.fa", random_fasta(2, 150, 40) + random_fasta(1, 50, 40));
  const auto sides = [&](const std::vector<std::string>& files) {
    GenomeDataOptions options{.files = files, .sequence_length = 64, .cache = "none"};
    options.split.validation_fraction = 0.2;
    const GenomeData data = open_genome_data(options, 7);
    std::vector<std::set<std::string>> names(2);
    for (size_t side = 0; side < 2; ++side) {
      const RowSource& source = side == 0 ? *data.train : *data.validation;
      for (const std::string& name : source.rows(0, source.num_rows()).record_names) names[side].insert(name);
    }
    EXPECT_EQ(data.report.records, 350);
    EXPECT_EQ(data.report.counts.repeated_records, 50);
    return names;
  };
  const auto names = sides({a, b});
  EXPECT_EQ(names[0].size() + names[1].size(), 300u);  // copies are on one side, so no name is on both
  EXPECT_GT(names[1].size(), 30u);
  EXPECT_EQ(sides({b, a}), names);
}

TEST(Genome, EpochsPureAndComplete) {
  const TempFolder folder;
  GenomeDataOptions options{.files = {folder.write("a.fa", random_fasta(3, 300, 60))},
                            .sequence_length = 128,
                            .cache = (folder.path() / "cache").string()};
  const GenomeData built = open_genome_data(options, 7);
  const GenomeData mapped = open_genome_data(options, 7);
  const int64_t rows = built.train->num_rows();
  for (const int64_t first : {int64_t{0}, rows - 2, 5 * rows + 3}) {
    const Batch one = built.train->rows(first, 4);
    const Batch two = mapped.train->rows(first, 4);
    for (const auto& [name, tensor] : one.tensors)
      EXPECT_TRUE(at::equal(tensor, two.tensors.at(name))) << name;
  }
  EXPECT_FALSE(at::equal(built.train->rows(0, 4).tensors.at("tokens"),
                         open_genome_data(options, 8).train->rows(0, 4).tensors.at("tokens")));
  const double labels =
      built.train->rows(0, rows).weight + built.validation->rows(0, built.validation->num_rows()).weight;
  EXPECT_EQ(labels, static_cast<double>(built.report.tokens - built.report.records));
  EXPECT_EQ(built.report.caches.size(), 1u);
}

TEST(Genome, MixtureWeightsAndSharedFiles) {
  const TempFolder folder;
  const std::string a = folder.write("a.fa", random_fasta(4, 300, 40));
  const std::string b = folder.write("b.fa", random_fasta(5, 60, 40));
  GenomeDataOptions options;
  options.mixture.resize(2);
  options.mixture[0] = {{a}, 1};
  options.mixture[1] = {{b}, 3};
  options.sequence_length = 64;
  options.cache = "none";
  const GenomeData data = open_genome_data(options, 1);
  int64_t of_b = 0;
  for (int64_t r = 0; r < 400; ++r) of_b += data.train->row(r).names[0].starts_with("s5_");
  EXPECT_EQ(of_b, 300);
  EXPECT_THAT(data.report.warnings, IsEmpty());
  options.mixture[1].files.push_back(a);
  EXPECT_THAT(open_genome_data(options, 1).report.warnings, Contains(HasSubstr("in more than one group")));
}

TEST(Genome, OptionsReadFromRecipesAndAreChecked) {
  const auto read = [](const char* text) {
    return recipe::parse<GenomeDataOptions>(recipe::load_text(text, "test.yaml"));
  };
  const GenomeDataOptions options = read(
      "mixture:\n  - {files: [a.fa], weight: 2}\n  - {files: [b/, 'c*.fa'], weight: 1}\n"
      "tokenizer: {kind: nucleotide, eos: false}\nsequence_length: 512\nsplit: {validation_fraction: 0.1}\n");
  EXPECT_EQ(options.mixture[1].files, (std::vector<std::string>{"b/", "c*.fa"}));
  EXPECT_EQ(options.tokenizer.kind, "nucleotide");
  EXPECT_THAT(error_of([&] { read("files: [a]\nmixture: [{files: [b]}]\n"); }), HasSubstr("got both"));
  EXPECT_THAT(error_of([&] { read("sequence_length: 8\n"); }), HasSubstr("got none"));
  EXPECT_THAT(error_of([&] { read("files: [a]\nstride: 9\nsequence_length: 8\n"); }), HasSubstr("stride"));
  EXPECT_THAT(error_of([&] { read("mixture: [{files: [a], weight: 1}, {files: [b]}]\n"); }),
              HasSubstr("all or none"));
}

TEST(Genome, RecordsInFileOrder) {
  const TempFolder folder;
  const std::string a = folder.write("a.fa", ">x\nATGTAA\n>skip\nA\n>y\nATGGGCTAA\n");
  const std::string b = folder.write("b.fa", ">z\nATG\n");
  const GenomeRecords records = open_genome_records({b, a}, {}, "none");
  ASSERT_EQ(records.size(), 3);
  EXPECT_EQ(records.record(0).name, "z");
  EXPECT_EQ(records.record(0).file, b);
  EXPECT_EQ(records.record(2).name, "y");
  EXPECT_EQ(records.record(2).file, a);
  EXPECT_THAT(records.record(2).tokens, ElementsAre(1, 10, 5, 65, 2));
  EXPECT_THAT(records.report().warnings, Contains(HasSubstr("(skip)")));
  EXPECT_EQ(records.report().lines().at(0), "data: 3 records in 2 files, 12 tokens");
  EXPECT_THAT(error_of([&] { records.record(3); }), HasSubstr("expected 0 to 2, got 3"));
}

TEST(Genome, RealFilesReport) {
  AXIAL_GENOME_FILE(yeast, "yeast_cds_6600.fasta.zst");
  GenomeDataOptions options{.files = {yeast.string()}, .sequence_length = 2048, .cache = "none"};
  options.split.keep_near_duplicates_together = true;
  const GenomeData data = open_genome_data(options, 1);
  EXPECT_GT(data.report.train_fill, 0.95);
  EXPECT_GT(data.report.validation_fill, 0.9);
  EXPECT_LT(data.report.split.clusters, data.report.split.distinct);
  EXPECT_EQ(data.report.records, 6600);
  ASSERT_EQ(data.report.lines().size(), 3u);
  EXPECT_THAT(data.report.lines()[1], HasSubstr("clusters at identity 0.95"));
  const Batch batch = data.train->rows(0, 8);
  EXPECT_EQ(batch.tensors.at("tokens").sizes(), (at::IntArrayRef{8, 2048}));
  for (const std::string& line : data.report.lines()) RecordProperty(line.substr(0, line.find(':')), line);
}

}  // namespace
}  // namespace axial::data
