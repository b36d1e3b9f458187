// SPDX-License-Identifier: Apache-2.0
// A random process whose samples look like coding sequences and whose every probability is known, so
// that a language model's perplexity can be held against the truth. simulate.h samples, `eval` judges.
//
// A gene is ATG, a body of n codons without stops, a stop codon. With a class z (codon usage of a host,
// uniform over Z, hidden, fixed over the gene), previous codon d and the codon e of `echo_period` before:
//   P(next is a stop)     = h(n)                 0 below min_codons, 1 at max_codons, else constant
//   P(c | z, d, e, body)  = U_z(c | acid(c), wobble(d)) [(1 - r) T(acid(d), acid(c)) + r [acid(c) = acid(e)]]
// T: which acid follows which; U_z: usage among the synonymous codons, by class and by the third base of
// the codon before (codon context); r: `echo`, the periodicity of helices. An n-gram sees T and the context;
// z shows only over tens of codons, e lies outside its window. Forward filtering over z gives
// P(token | all tokens before) exactly: no model of single records can do better in expectation.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "axial/core/rng/rng.h"

namespace axial::data {

struct CodonProcessOptions {
  int64_t seed = 1;
  int64_t classes = 8;
  double usage_spread = 1.2;
  double context_spread = 0.4;
  double acid_spread = 0.6;
  int64_t echo_period = 7;
  double echo = 0.25;
  int64_t min_codons = 100;
  int64_t mean_codons = 180;
  int64_t max_codons = 250;
  template <class V>
  void fields(V& v) {
    v("seed", seed, "draws the tables of the process; another seed is another organism");
    v("classes", classes, "hidden codon-usage classes, one per gene");
    v("usage_spread", usage_spread, "how much usage of synonymous codons differs by class (sd of ln weight)");
    v("context_spread", context_spread, "how much it differs by the third base of the codon before");
    v("acid_spread", acid_spread, "how much amino acids prefer their successors (sd of ln weight)");
    v("echo_period", echo_period, "codons between an amino acid and its echo; 7 is the heptad of helices");
    v("echo", echo, "probability of an echo, 0 to below 1");
    v("min_codons", min_codons, "fewest codons between start and stop");
    v("mean_codons", mean_codons, "mean of the untruncated length");
    v("max_codons", max_codons, "most codons between start and stop");
  }
  void validate() const;  ///< throws ValueError
};

/// A gene: codons as 16 a + 4 b + c with A C G T = 0 1 2 3, from ATG to the stop codon.
struct Gene {
  std::vector<uint8_t> codons;
  int64_t usage_class = 0;
};

/// True log-likelihood of a record, summed over its predicted tokens: the codons and the end of record.
struct TrueLikelihood {
  double nats = 0;  ///< -ln P(record), natural logarithm
  int64_t tokens = 0;
};

/// The process. Construction draws the tables; the rest is const and thread-safe.
class CodonProcess {
 public:
  static constexpr int kCodons = 64;
  static constexpr int kEnd = 64;  ///< the end of the record as a token, behind the stop codon

  explicit CodonProcess(const CodonProcessOptions& options);
  const CodonProcessOptions& options() const { return options_; }

  /// One gene; all genes are independent given their keys.
  Gene sample(RngKey key) const;

  /// Evolve a gene along a branch: a Poisson number of proposed point mutations (mean `proposals` per
  /// codon of the body) at uniform places, transitions `kappa` times as likely as a transversion, each
  /// accepted with min(1, P(after) / P(before)) under the gene's class; start, class and length stay.
  /// Proposals are symmetric, so the chain is reversible and P(gene | class, length) is stationary:
  /// a descendant has exactly the law of its ancestor, only correlated with it.
  void evolve(Gene& gene, double proposals, double kappa, RngKey key) const;

  /// P(next token | codons from the start): 64 codons and kEnd; sums to 1. The prefix must be possible.
  std::array<double, 65> predictive(std::span<const uint8_t> prefix) const;
  /// -ln P of each predicted token: ATG, ..., the stop codon, the end.
  std::vector<double> token_nats(std::span<const uint8_t> codons) const;
  /// The same for text. Throws ValueError naming what this process cannot produce.
  TrueLikelihood true_log_likelihood(std::string_view sequence) const;

  /// Text <-> codons. Throws ValueError for a length that 3 does not divide, or another letter than ACGT.
  static std::vector<uint8_t> parse(std::string_view sequence);
  static std::string text(std::span<const uint8_t> codons);
  /// Amino acid 0..19 of a codon, 20 for a stop.
  static int acid_of(int codon);

 private:
  class Filter;
  double hazard(int64_t body) const;
  double acid_probability(int acid, int before, int echoed) const;
  double factor(int64_t usage_class, std::span<const uint8_t> codons, int64_t at) const;
  void propose(Gene& gene, double kappa, RngKey key, uint64_t index) const;

  CodonProcessOptions options_;
  std::vector<std::array<std::array<double, 64>, 4>> usage_;  // [class][third base before][codon]
  std::array<std::array<double, 20>, 20> follows_{};          // [acid before][acid]
};

}  // namespace axial::data
