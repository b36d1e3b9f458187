// SPDX-License-Identifier: Apache-2.0
// Tables, sampling, mutation and the exact filter of codon_process.h.
#include "axial/data/simulate/codon_process.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "axial/core/check/check.h"

namespace axial::data {
namespace {

// The standard code, codons in the order AAA AAC AAG AAT ACA ...; stops are *.
constexpr std::string_view kCode = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF";
constexpr std::string_view kAcids = "ACDEFGHIKLMNPQRSTVWY";
constexpr std::string_view kBases = "ACGT";
constexpr int kStart = 14;  // ATG
constexpr int kStop = 20;
constexpr int kNoEcho = -1;

constexpr std::array<int, 64> acids() {
  std::array<int, 64> out{};
  for (size_t c = 0; c < 64; ++c) {
    const size_t at = kAcids.find(kCode[c]);
    out[c] = at == std::string_view::npos ? kStop : static_cast<int>(at);
  }
  return out;
}
constexpr std::array<int, 64> kAcidOf = acids();

template <class Weights>
size_t draw(const Weights& weights, double uniform) {
  double sum = 0;
  for (const double w : weights) sum += w;
  double left = uniform * sum;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    left -= weights[i];
    if (left < 0) break;
  }
  return last;
}

}  // namespace

void CodonProcessOptions::validate() const {
  AXIAL_CHECK(classes >= 1 && classes <= 256, "simulate", "classes {}; expected 1 to 256", classes);
  AXIAL_CHECK(echo >= 0 && echo < 1, "simulate", "echo {}; expected 0 <= echo < 1", echo);
  AXIAL_CHECK(echo_period >= 1, "simulate", "echo_period {}; expected at least 1", echo_period);
  AXIAL_CHECK(min_codons >= 1 && mean_codons > min_codons && max_codons >= min_codons, "simulate",
              "lengths min {}, mean {}, max {}; expected 1 <= min < mean and min <= max", min_codons,
              mean_codons, max_codons);
  for (const double spread : {usage_spread, context_spread, acid_spread}) {
    AXIAL_CHECK(spread >= 0 && spread <= 10, "simulate", "spread {}; expected 0 to 10", spread);
  }
}

CodonProcess::CodonProcess(const CodonProcessOptions& options) : options_(options) {
  options_.validate();
  const RngKey key = root_key(static_cast<uint64_t>(options_.seed)).child("codon_process");
  const auto weight = [&](const char* name, double spread, uint64_t index) {
    return std::exp(spread * random_normal(key.child(name), index));
  };
  for (size_t a = 0; a < 20; ++a) {
    double sum = 0;
    for (size_t b = 0; b < 20; ++b) {
      follows_[a][b] = weight("acid", 0.5, b) * weight("follows", options_.acid_spread, 20 * a + b);
      sum += follows_[a][b];
    }
    for (double& p : follows_[a]) p /= sum;
  }
  usage_.resize(static_cast<size_t>(options_.classes));
  for (size_t z = 0; z < usage_.size(); ++z) {
    for (size_t before = 0; before < 4; ++before) {
      std::array<double, 21> sums{};
      for (size_t c = 0; c < 64; ++c) {
        usage_[z][before][c] = weight("usage", options_.usage_spread, 64 * z + c) *
                               weight("context", options_.context_spread, 4 * before + c % 4);
        sums[static_cast<size_t>(kAcidOf[c])] += usage_[z][before][c];
      }
      for (size_t c = 0; c < 64; ++c) usage_[z][before][c] /= sums[static_cast<size_t>(kAcidOf[c])];
    }
  }
}

int CodonProcess::acid_of(int codon) { return kAcidOf.at(static_cast<size_t>(codon)); }

double CodonProcess::hazard(int64_t body) const {
  if (body < options_.min_codons) return 0;
  if (body >= options_.max_codons) return 1;
  return 1.0 / static_cast<double>(options_.mean_codons - options_.min_codons + 1);
}

double CodonProcess::acid_probability(int acid, int before, int echoed) const {
  const double follows = follows_[static_cast<size_t>(before)][static_cast<size_t>(acid)];
  if (echoed == kNoEcho) return follows;
  return (1 - options_.echo) * follows + (acid == echoed ? options_.echo : 0.0);
}

/// P of the codon at `at` (from 1) given those before and the class, without the hazard.
double CodonProcess::factor(int64_t usage_class, std::span<const uint8_t> codons, int64_t at) const {
  const int codon = codons[static_cast<size_t>(at)], before = codons[static_cast<size_t>(at - 1)];
  const double usage =
      usage_[static_cast<size_t>(usage_class)][static_cast<size_t>(before % 4)][static_cast<size_t>(codon)];
  if (kAcidOf[static_cast<size_t>(codon)] == kStop) return usage;
  const int64_t source = at - options_.echo_period;  // the start codon at 0 is never echoed
  const int echoed = source >= 1 ? kAcidOf[codons[static_cast<size_t>(source)]] : kNoEcho;
  return usage *
         acid_probability(kAcidOf[static_cast<size_t>(codon)], kAcidOf[static_cast<size_t>(before)], echoed);
}

Gene CodonProcess::sample(RngKey key) const {
  Gene gene;
  uint64_t index = 0;
  gene.usage_class =
      static_cast<int64_t>(random_below(key, index++, static_cast<uint64_t>(options_.classes)));
  gene.codons.push_back(kStart);
  for (bool stopped = false; !stopped;) {
    const auto body = static_cast<int64_t>(gene.codons.size()) - 1;
    stopped = random_uniform(key, index++) < hazard(body);
    gene.codons.push_back(0);
    std::array<double, 64> weights{};
    for (int c = 0; c < kCodons; ++c) {
      if ((acid_of(c) == kStop) != stopped) continue;
      gene.codons.back() = static_cast<uint8_t>(c);
      weights[static_cast<size_t>(c)] = factor(gene.usage_class, gene.codons, body + 1);
    }
    gene.codons.back() = static_cast<uint8_t>(draw(weights, random_uniform(key, index++)));
  }
  return gene;
}

void CodonProcess::evolve(Gene& gene, double proposals, double kappa, RngKey key) const {
  AXIAL_CHECK(gene.codons.size() >= 3, "simulate", "gene of {} codons; expected at least 3",
              gene.codons.size());
  const double mean = proposals * static_cast<double>(gene.codons.size() - 2);
  // Waiting times of a Poisson process of rate 1 until `mean`; four draws per event.
  double time = 0;
  for (uint64_t event = 0;; ++event) {
    time -= std::log1p(-random_uniform(key, 4 * event));
    if (time > mean) return;
    propose(gene, kappa, key, 4 * event + 1);
  }
}

void CodonProcess::propose(Gene& gene, double kappa, RngKey key, uint64_t index) const {
  const auto last = static_cast<int64_t>(gene.codons.size()) - 1;
  const auto base = static_cast<int64_t>(random_below(key, index, static_cast<uint64_t>(3 * last)));
  const int64_t at = 1 + base / 3;
  const int shift = 4 - 2 * static_cast<int>(base % 3);
  const uint8_t old = gene.codons[static_cast<size_t>(at)];
  // A C G T = 0 1 2 3: a flip of the upper bit is the transition, of the lower or both a transversion.
  const double which = random_uniform(key, index + 1) * (kappa + 2);
  const int flip = which < kappa ? 2 : which < kappa + 1 ? 1 : 3;
  const auto changed = static_cast<uint8_t>(old ^ flip << shift);
  if ((acid_of(changed) == kStop) != (at == last)) return;
  const auto around = [&] {
    double p = factor(gene.usage_class, gene.codons, at);
    if (at < last) p *= factor(gene.usage_class, gene.codons, at + 1);
    // The position that echoes this one; with a period of 1 it is the next, which is counted already.
    const int64_t echo = at + options_.echo_period;
    if (echo <= last && echo != at + 1) p *= factor(gene.usage_class, gene.codons, echo);
    return p;
  };
  const double before = around();
  gene.codons[static_cast<size_t>(at)] = changed;
  if (random_uniform(key, index + 2) * before >= around()) gene.codons[static_cast<size_t>(at)] = old;
}

/// P(token | tokens so far) by forward filtering: the weight of each class given the tokens.
class CodonProcess::Filter {
 public:
  explicit Filter(const CodonProcess& process)
      : process_(process),
        weights_(process.usage_.size(), 1.0 / static_cast<double>(process.usage_.size())) {}

  std::array<double, 65> next() const {
    std::array<double, 65> p{};
    if (codons_.empty()) {
      p[kStart] = 1;
      return p;
    }
    const int before = codons_.back();
    if (acid_of(before) == kStop) {
      p[kEnd] = 1;
      return p;
    }
    const auto body = static_cast<int64_t>(codons_.size()) - 1;
    const double stop = process_.hazard(body);
    const int64_t source = body + 1 - process_.options_.echo_period;
    const int echoed = source >= 1 ? acid_of(codons_[static_cast<size_t>(source)]) : kNoEcho;
    for (size_t c = 0; c < 64; ++c) {
      double usage = 0;
      for (size_t z = 0; z < weights_.size(); ++z) {
        usage += weights_[z] * process_.usage_[z][static_cast<size_t>(before % 4)][c];
      }
      const int acid = kAcidOf[c];
      p[c] = usage *
             (acid == kStop ? stop : (1 - stop) * process_.acid_probability(acid, acid_of(before), echoed));
    }
    return p;
  }

  void push(uint8_t codon) {
    if (!codons_.empty()) {
      double sum = 0;
      for (size_t z = 0; z < weights_.size(); ++z) {
        weights_[z] *= process_.usage_[z][static_cast<size_t>(codons_.back() % 4)][codon];
        sum += weights_[z];
      }
      for (double& w : weights_) w /= sum;
    }
    codons_.push_back(codon);
  }

 private:
  const CodonProcess& process_;
  std::vector<double> weights_;
  std::vector<uint8_t> codons_;
};

std::array<double, 65> CodonProcess::predictive(std::span<const uint8_t> prefix) const {
  Filter filter(*this);
  for (const uint8_t codon : prefix) {
    AXIAL_CHECK(codon < kCodons && filter.next()[codon] > 0, "simulate",
                "the prefix of {} codons holds one that cannot stand there", prefix.size());
    filter.push(codon);
  }
  return filter.next();
}

std::vector<double> CodonProcess::token_nats(std::span<const uint8_t> codons) const {
  Filter filter(*this);
  std::vector<double> nats;
  for (const uint8_t codon : codons) {
    const double p = codon < kCodons ? filter.next()[codon] : 0.0;
    AXIAL_CHECK(p > 0, "simulate", "codon {} of {} is {}, which this process never puts there",
                nats.size() + 1, codons.size(), codon < kCodons ? text(std::span(&codon, 1)) : "no codon");
    nats.push_back(-std::log(p));
    filter.push(codon);
  }
  const double end = filter.next()[kEnd];
  AXIAL_CHECK(end > 0, "simulate", "the record ends after {} codons without a stop codon", codons.size());
  nats.push_back(-std::log(end));
  return nats;
}

TrueLikelihood CodonProcess::true_log_likelihood(std::string_view sequence) const {
  TrueLikelihood result;
  for (const double nats : token_nats(parse(sequence))) {
    result.nats += nats;
    ++result.tokens;
  }
  return result;
}

std::vector<uint8_t> CodonProcess::parse(std::string_view sequence) {
  AXIAL_CHECK(sequence.size() % 3 == 0, "simulate", "sequence of {} bases; expected a multiple of 3",
              sequence.size());
  std::vector<uint8_t> codons;
  for (size_t i = 0; i < sequence.size(); i += 3) {
    size_t codon = 0;
    for (size_t j = i; j < i + 3; ++j) {
      const size_t base = kBases.find(sequence[j]);
      AXIAL_CHECK(base != std::string_view::npos, "simulate",
                  "base '{}' at position {}; expected A, C, G or T", sequence[j], j + 1);
      codon = 4 * codon + base;
    }
    codons.push_back(static_cast<uint8_t>(codon));
  }
  return codons;
}

std::string CodonProcess::text(std::span<const uint8_t> codons) {
  std::string out;
  for (const uint8_t codon : codons) {
    for (const int shift : {4, 2, 0}) out.push_back(kBases[static_cast<size_t>(codon >> shift & 3)]);
  }
  return out;
}

}  // namespace axial::data
