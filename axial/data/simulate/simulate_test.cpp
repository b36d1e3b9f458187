// SPDX-License-Identifier: Apache-2.0
// The law of simulated genes: sums to one, exact entropies, stationarity under evolution, and what
// n-grams cannot reach.
#include "axial/data/simulate/simulate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/data/fasta/fasta.h"
#include "axial/data/ngram/baselines.h"
#include "axial/data/testing/files.h"

namespace axial::data {
namespace {

CodonProcessOptions tiny() {
  CodonProcessOptions o;
  o.classes = 3;
  o.echo_period = 1;
  o.echo = 0.3;
  o.min_codons = 1;
  o.mean_codons = 3;
  o.max_codons = 2;
  return o;
}

SimulateOptions small() {
  SimulateOptions o;
  o.train_families = 20;
  o.validation_families = 10;
  o.members = 3;
  return o;
}

double record_nats(const CodonProcess& process, std::span<const uint8_t> codons) {
  double sum = 0;
  for (const double nats : process.token_nats(codons)) sum += nats;
  return sum;
}

/// Every possible gene of the tiny process.
std::vector<std::vector<uint8_t>> all_tiny_genes() {
  std::vector<uint8_t> sense, stops;
  for (uint8_t c = 0; c < 64; ++c) (CodonProcess::acid_of(c) == 20 ? stops : sense).push_back(c);
  std::vector<std::vector<uint8_t>> genes;
  for (const uint8_t stop : stops) {
    for (const uint8_t a : sense) {
      genes.push_back({14, a, stop});
      for (const uint8_t b : sense) genes.push_back({14, a, b, stop});
    }
  }
  return genes;
}

TEST(CodonProcess, PredictiveSumsToOneAndAgreesWithTokenNats) {
  const CodonProcess process({});
  const Gene gene = process.sample(root_key(3));
  const auto nats = process.token_nats(gene.codons);
  ASSERT_EQ(nats.size(), gene.codons.size() + 1);
  for (size_t i = 0; i <= gene.codons.size(); ++i) {
    const auto p = process.predictive(std::span(gene.codons).first(i));
    double sum = 0;
    for (const double value : p) sum += value;
    EXPECT_NEAR(sum, 1.0, 1e-12) << "after " << i << " codons";
    EXPECT_NEAR(-std::log(p[i < gene.codons.size() ? gene.codons[i] : 64]), nats[i], 1e-12);
  }
}

TEST(CodonProcess, EnumerationGivesTotalOneAndTheEntropyThatSamplesShow) {
  const CodonProcess process(tiny());
  double total = 0, entropy = 0, square = 0;
  for (const auto& gene : all_tiny_genes()) {
    const double nats = record_nats(process, gene);
    total += std::exp(-nats);
    entropy += std::exp(-nats) * nats;
    square += std::exp(-nats) * nats * nats;
  }
  EXPECT_NEAR(total, 1.0, 1e-10) << "the law covers all genes and nothing else";
  constexpr uint64_t kSamples = 20000;
  double mean = 0;
  for (uint64_t i = 0; i < kSamples; ++i)
    mean += record_nats(process, process.sample(root_key(5).child(i)).codons);
  mean /= kSamples;
  const double error = std::sqrt((square - entropy * entropy) / kSamples);
  EXPECT_NEAR(mean, entropy, 5 * error);
  EXPECT_LT(error, 0.02);
}

TEST(CodonProcess, WithoutHiddenStateItIsAMarkovChainOfKnownEntropyRate) {
  CodonProcessOptions o;
  o.classes = 1;
  o.echo = 0;
  o.min_codons = 20000;
  o.mean_codons = 20001;
  o.max_codons = 20000;
  const CodonProcess process(o);
  // Transition matrix over sense codons from the predictive law, its stationary law by iteration.
  std::array<std::array<double, 64>, 64> move{};
  std::array<double, 64> law{};
  for (uint8_t c = 0; c < 64; ++c) {
    if (CodonProcess::acid_of(c) == 20) continue;
    const std::vector<uint8_t> prefix{14, c};
    const auto p = process.predictive(prefix);
    std::copy(p.begin(), p.begin() + 64, move[c].begin());
    law[c] = 1.0 / 61;
  }
  for (int sweep = 0; sweep < 200; ++sweep) {
    std::array<double, 64> next{};
    for (size_t a = 0; a < 64; ++a) {
      for (size_t b = 0; b < 64; ++b) next[b] += law[a] * move[a][b];
    }
    law = next;
  }
  double rate = 0;
  for (size_t a = 0; a < 64; ++a) {
    for (size_t b = 0; b < 64; ++b) {
      if (move[a][b] > 0) rate -= law[a] * move[a][b] * std::log(move[a][b]);
    }
  }
  const Gene gene = process.sample(root_key(6));
  const double sampled = record_nats(process, gene.codons) / 20000;
  EXPECT_NEAR(sampled, rate, 0.03) << "20000 codons, each with a deviation of about 1 nat";
}

TEST(CodonProcess, EvolutionKeepsTheLawOfAGene) {
  // Chi-square of leaves against the exact law: all 1-codon-body genes pooled by their body codon.
  CodonProcessOptions o = tiny();
  o.max_codons = 1;
  const CodonProcess process(o);
  std::map<uint8_t, double> expected;
  for (const auto& gene : all_tiny_genes()) {
    if (gene.size() == 3) expected[gene[1]] += std::exp(-record_nats(process, gene));
  }
  constexpr int kGenes = 40000;
  std::map<uint8_t, int> seen;
  int64_t moved = 0;
  for (uint64_t i = 0; i < kGenes; ++i) {
    Gene gene = process.sample(root_key(7).child(i));
    const uint8_t before = gene.codons[1];
    process.evolve(gene, 6.0, 2.5, root_key(8).child(i));
    ++seen[gene.codons[1]];
    moved += gene.codons[1] != before ? 1 : 0;
  }
  EXPECT_GT(moved, kGenes / 2) << "evolution must change genes for this test to mean anything";
  double chi_square = 0;
  for (const auto& [codon, p] : expected) {
    const double mean = p * kGenes;
    chi_square += (seen[codon] - mean) * (seen[codon] - mean) / mean;
  }
  EXPECT_LT(chi_square, 60 + 5 * std::sqrt(2.0 * 60)) << "60 degrees of freedom, five deviations";
}

TEST(CodonProcess, EvolutionKeepsTheEntropyWithContextAndEcho) {
  CodonProcessOptions o;
  o.min_codons = 30;
  o.mean_codons = 35;
  o.max_codons = 60;
  o.echo = 0.4;
  const CodonProcess process(o);
  double before = 0, after = 0, before_square = 0, after_square = 0;
  constexpr uint64_t kGenes = 1500;
  for (uint64_t i = 0; i < kGenes; ++i) {
    Gene gene = process.sample(root_key(9).child(i));
    const double tokens = static_cast<double>(gene.codons.size());
    const double a = record_nats(process, gene.codons) / tokens;
    process.evolve(gene, 5.0, 2.5, root_key(10).child(i));
    const double b = record_nats(process, gene.codons) / tokens;
    before += a / kGenes;
    after += b / kGenes;
    before_square += a * a / kGenes;
    after_square += b * b / kGenes;
  }
  const double error = std::sqrt((before_square - before * before + after_square - after * after) / kGenes);
  EXPECT_LT(error, 0.02);
  EXPECT_NEAR(after, before, 5 * error);
}

TEST(CodonProcess, WhatItCannotProduceIsRefused) {
  const CodonProcess process(tiny());
  EXPECT_EQ(process.true_log_likelihood("ATGAAATAA").tokens, 4);
  for (const char* bad : {"ATGAAATA", "ATGNNNTAA", "CCCAAATAA", "ATGTAA", "ATGAAA", "ATGAAATAAAAA", "",
                          "atgaaataa", "ATGAAAAAAAAATAA"}) {
    EXPECT_THROW(process.true_log_likelihood(bad), ValueError) << bad;
  }
  auto o = tiny();
  o.echo = 1;
  EXPECT_THROW(CodonProcess{o}, ValueError);
}

TEST(Simulate, FilesAreGenesAndTheSidecarJudgesThem) {
  const testing::TempFolder folder;
  const Simulation made = simulate_genomes(small(), folder.path() / "demo");
  const CodonProcess process = load_process(made.sidecar);
  std::set<std::string> train;
  int64_t tokens = 0;
  double nats = 0;
  for (const SimulatedSet* set : {&made.train, &made.validation}) {
    int64_t records = 0;
    read_fasta(set->path, {}, [&](const FastaRecord& record) {
      ++records;
      EXPECT_NE(record.description.find("simulated"), std::string_view::npos);
      EXPECT_EQ(record.sequence.substr(0, 3), "ATG");
      const auto codons = CodonProcess::parse(record.sequence);
      for (size_t i = 0; i < codons.size(); ++i) {
        EXPECT_EQ(CodonProcess::acid_of(codons[i]) == 20, i + 1 == codons.size()) << "stop codons end genes";
      }
      if (set == &made.train) {
        train.insert(std::string(record.sequence));
      } else {
        EXPECT_EQ(train.count(std::string(record.sequence)), 0u);
        const TrueLikelihood truth = process.true_log_likelihood(record.sequence);
        tokens += truth.tokens;
        nats += truth.nats;
      }
    });
    EXPECT_EQ(records, set->records);
  }
  EXPECT_EQ(tokens, made.validation.tokens);
  EXPECT_NEAR(nats / static_cast<double>(tokens), made.validation.nats, 1e-12);
  EXPECT_GT(made.validation.identity, 0.2);
  EXPECT_LT(made.validation.identity, 0.9);
  const auto json = nlohmann::json::parse(read_file(made.sidecar));
  EXPECT_EQ(json["validation"]["true_perplexity"].get<double>(), made.validation.perplexity);
}

TEST(Simulate, EqualOptionsGiveEqualBytes) {
  const testing::TempFolder folder;
  auto options = small();
  const Simulation a = simulate_genomes(options, folder.path() / "a"),
                   b = simulate_genomes(options, folder.path() / "b");
  EXPECT_EQ(read_file(a.train.path), read_file(b.train.path));
  options.gzip = true;
  const Simulation c = simulate_genomes(options, folder.path() / "c");
  std::string plain, packed;
  const auto collect = [](std::string& out) {
    return
        [&out](const FastaRecord& record) { out += std::string(record.name) + std::string(record.sequence); };
  };
  read_fasta(a.train.path, {}, collect(plain));
  read_fasta(c.train.path, {}, collect(packed));
  EXPECT_EQ(plain, packed);
  EXPECT_EQ(c.train.path.extension(), ".gz");
  options.seed = 2;
  options.gzip = false;
  EXPECT_NE(read_file(simulate_genomes(options, folder.path() / "d").train.path), read_file(a.train.path));
}

TEST(Simulate, BadInputIsRefused) {
  const testing::TempFolder folder;
  auto options = small();
  options.members = 0;
  EXPECT_THROW(simulate_genomes(options, folder.path() / "x"), ValueError);
  EXPECT_THROW(simulate_genomes(small(), folder.path() / "missing" / "x"), IoError);
  EXPECT_THROW(load_process(folder.write("no.json", "{}")), ValueError);
  EXPECT_THROW(load_process(folder.write("broken.json", "{")), ValueError);
}

TEST(Simulate, NgramsStayFarAboveTheTruth) {
  SimulateOptions options;
  options.train_families = 500;
  options.validation_families = 60;
  const CodonProcess process(options.process);
  std::vector<std::vector<int32_t>> train, validation;
  double nats = 0;
  int64_t tokens = 0;
  for (int64_t family = 0; family < 560; ++family) {
    for (const Gene& gene : simulate_family(process, options, family)) {
      std::vector<int32_t> record{1};
      for (const uint8_t codon : gene.codons) record.push_back(5 + codon);
      record.push_back(2);
      if (family < 500) {
        train.push_back(record);
        continue;
      }
      nats += record_nats(process, gene.codons);
      tokens += static_cast<int64_t>(record.size()) - 1;
      validation.push_back(record);
    }
  }
  const auto over = [](const auto& records) {
    return TokenRecords([&records](const std::function<void(std::span<const int32_t>)>& visit) {
      for (const auto& record : records) visit(record);
    });
  };
  const NgramModel model = NgramModel::fit(over(train), 69);
  const BaselineTable table = compute_baselines(model, over(validation));
  ASSERT_EQ(table.rows[0].tokens, tokens);
  const double truth = std::exp(nats / static_cast<double>(tokens));
  EXPECT_GT(table.best_ngram().perplexity, 1.15 * truth) << table.render();
  RecordProperty("truth", std::to_string(truth));
  RecordProperty("best_ngram", std::to_string(table.best_ngram().perplexity));
}

}  // namespace
}  // namespace axial::data
