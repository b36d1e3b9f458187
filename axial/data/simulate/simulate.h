// SPDX-License-Identifier: Apache-2.0
// Simulated coding sequences with a known best possible perplexity, for demos and tests without data.
//
// Families of genes evolve along random trees (Kingman coalescent) from ancestors drawn by a
// CodonProcess; its mutations keep the law of a gene, so each record alone has exactly that law. Whole
// families train or validate. Hence, for any model q fitted to the training file, a validation record
// x is independent of q and E[-ln q(x)] >= E[-ln P(x)] (Gibbs): the true perplexity that is reported for
// the validation file is a lower bound in expectation, for models that read one record at a time.
// A random split of one file would put relatives on both sides and void that; use both files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "axial/data/simulate/codon_process.h"

namespace axial::data {

struct SimulateOptions {
  int64_t seed = 1;
  int64_t train_families = 2000;
  int64_t validation_families = 120;
  int64_t members = 4;
  double tree_depth = 1.5;
  double kappa = 2.5;
  bool gzip = false;
  CodonProcessOptions process;
  template <class V>
  void fields(V& v) {
    v("seed", seed, "draws the genes and trees");
    v("train_families", train_families, "gene families of the training file");
    v("validation_families", validation_families, "gene families of the validation file");
    v("members", members, "genes per family; 1: all records independent");
    v("tree_depth", tree_depth, "proposed mutations per codon from a family's ancestor to each member");
    v("kappa", kappa, "rate of a transition over that of one transversion");
    v("gzip", gzip, "compress the FASTA files");
    v("process", process, "law of a gene");
  }
  void validate() const;  ///< throws ValueError
};

/// What one file holds, and how well its records can be predicted at best.
struct SimulatedSet {
  std::filesystem::path path;
  int64_t records = 0;
  int64_t tokens = 0;  ///< predicted: every codon and the end of each record
  double nats = 0;     ///< mean true -ln P per predicted token
  double perplexity = 0;
  double standard_error = 0;  ///< of nats, between families
  double identity = 0;        ///< mean share of equal codons between two members of a family
};

struct Simulation {
  SimulatedSet train, validation;
  std::filesystem::path sidecar;
};

/// The members of one family; a pure function of the options and the family's number. Training families
/// have the numbers 0 .. train_families - 1, validation families follow.
std::vector<Gene> simulate_family(const CodonProcess& process, const SimulateOptions& options,
                                  int64_t family);

/// Write <prefix>.train.fasta, <prefix>.validation.fasta (.gz on request) and <prefix>.json, which holds
/// the options and the true perplexities. Files appear whole or not at all; equal options give equal bytes.
/// on_family (optional) hears the number of families done. Throws ValueError, IoError.
Simulation simulate_genomes(const SimulateOptions& options, const std::filesystem::path& prefix,
                            const std::function<void(int64_t)>& on_family = nullptr);

/// The process that a sidecar describes, to judge records by. Throws ValueError when it is none.
CodonProcess load_process(const std::filesystem::path& sidecar);

}  // namespace axial::data
