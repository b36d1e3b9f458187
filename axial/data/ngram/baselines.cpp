// SPDX-License-Identifier: Apache-2.0
// Tuning and judging of baselines.h.
#include "axial/data/ngram/baselines.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "axial/core/check/check.h"
#include "axial/core/text/table.h"
#include "axial/core/text/text.h"

namespace axial::data {
namespace {

using detail::LevelCounts;

constexpr double kLowest = 1e-3;  // discount 0 would leave unseen tokens without probability

/// Counts at all levels for evenly spaced predicted tokens.
struct Sample {
  size_t order = 0;
  std::vector<LevelCounts> levels;  // [tokens * order]
  size_t size() const { return levels.size() / order; }
  std::span<const LevelCounts> at(size_t i) const { return std::span(levels).subspan(i * order, order); }
};

int64_t count_predicted(const TokenRecords& records, int64_t vocab_size) {
  int64_t tokens = 0;
  records([&](std::span<const int32_t> record) {
    for (const int32_t token : record) {
      AXIAL_CHECK(token >= 0 && token < vocab_size, "ngram", "validation token {}; expected 0 to {}", token,
                  vocab_size - 1);
    }
    tokens += std::max<int64_t>(static_cast<int64_t>(record.size()) - 1, 0);
  });
  AXIAL_CHECK(tokens > 0, "ngram", "no validation token; expected records of at least 2 tokens");
  return tokens;
}

Sample take_sample(const NgramModel& model, const TokenRecords& records, int64_t tokens, int64_t wanted) {
  Sample sample;
  sample.order = static_cast<size_t>(model.order());
  const int64_t stride = (tokens + wanted - 1) / wanted;
  std::vector<LevelCounts> levels(sample.order);
  int64_t index = 0;
  records([&](std::span<const int32_t> record) {
    for (size_t i = 1; i < record.size(); ++i) {
      if (index++ % stride != 0) continue;
      model.find(record, i, levels);
      sample.levels.insert(sample.levels.end(), levels.begin(), levels.end());
    }
  });
  return sample;
}

/// P = offset + slope * D for one discount D, every other one fixed, per sampled token.
struct Lines {
  std::vector<double> offset, slope;
  double mean_ln(double discount) const {
    double sum = 0;
    for (size_t i = 0; i < offset.size(); ++i) sum += std::log(offset[i] + slope[i] * discount);
    return sum / static_cast<double>(offset.size());
  }
  /// Falls with the discount, because the likelihood is concave.
  double derivative(double discount) const {
    double sum = 0;
    for (size_t i = 0; i < offset.size(); ++i) sum += slope[i] / (offset[i] + slope[i] * discount);
    return sum;
  }
};

void find_lines(const Sample& sample, NgramWeights model, size_t level, size_t which, int64_t vocab_size,
                Lines& lines) {
  lines.offset.resize(sample.size());
  lines.slope.resize(sample.size());
  NgramWeights one = model;
  model.discounts[level][which] = 0;
  one.discounts[level][which] = 1;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double at_zero = interpolate(model, sample.at(i), vocab_size);
    lines.offset[i] = at_zero;
    lines.slope[i] = interpolate(one, sample.at(i), vocab_size) - at_zero;
  }
}

/// The discount in [kLowest, highest] with the highest likelihood, to 1e-4.
double best_discount(const Lines& lines, double highest) {
  if (lines.derivative(highest) >= 0) return highest;
  double low = kLowest, high = highest;
  while (high - low > 1e-4) {
    const double middle = (low + high) / 2;
    (lines.derivative(middle) > 0 ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// P = base + excess / (total + S) for one strength S, everything else fixed, per sampled token.
struct Hyperbolas {
  std::vector<double> base, excess, total;
  double mean_ln(double strength) const {
    double sum = 0;
    for (size_t i = 0; i < base.size(); ++i) sum += std::log(base[i] + excess[i] / (total[i] + strength));
    return sum / static_cast<double>(base.size());
  }
};

Hyperbolas find_hyperbolas(const Sample& sample, NgramWeights model, size_t level, int64_t vocab_size) {
  Hyperbolas out;
  NgramWeights none = model;
  model.strengths[level] = 1e30;  // the shorter context alone
  none.strengths[level] = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double total = std::max(sample.at(i)[level].raw_sums.total, 1u);  // unseen context: excess 0
    out.base.push_back(interpolate(model, sample.at(i), vocab_size));
    out.excess.push_back((interpolate(none, sample.at(i), vocab_size) - out.base.back()) * total);
    out.total.push_back(total);
  }
  return out;
}

double best_strength(const Hyperbolas& curves) {
  const auto at = [&](double ln_strength) { return curves.mean_ln(std::exp(ln_strength)); };
  constexpr double kStart = -4.6, kSpacing = 1.15;  // 0.01 to 1e7
  int best = 0;
  double at_best = at(kStart);
  for (int i = 1; i <= 18; ++i) {
    if (const double value = at(kStart + i * kSpacing); value > at_best) best = i, at_best = value;
  }
  const double golden = (std::sqrt(5.0) - 1) / 2;
  double low = kStart + (best - 1) * kSpacing, high = kStart + (best + 1) * kSpacing;
  while (high - low > 0.02) {
    const double left = high - golden * (high - low), right = low + golden * (high - low);
    if (at(left) > at(right)) {
      high = right;
    } else {
      low = left;
    }
  }
  return std::exp((low + high) / 2);
}

NgramWeights tune_on(const Sample& sample, const NgramModel& model, int64_t n, Smoothing smoothing) {
  NgramWeights tuned = model.estimated(n, smoothing);
  Lines lines;
  double before = -std::numeric_limits<double>::infinity();
  for (int sweep = 0; sweep < 20; ++sweep) {
    for (size_t level = tuned.discounts.size(); level-- > 0;) {
      if (smoothing == Smoothing::kPitmanYor) {
        tuned.strengths[level] = best_strength(find_hyperbolas(sample, tuned, level, model.vocab_size()));
      }
      for (size_t which = 0; which < 3; ++which) {
        find_lines(sample, tuned, level, which, model.vocab_size(), lines);
        tuned.discounts[level][which] = best_discount(lines, static_cast<double>(which + 1));
      }
    }
    const double now = lines.mean_ln(tuned.discounts[0][2]);
    if (now - before < 1e-5) break;
    before = now;
  }
  return tuned;
}

}  // namespace

void BaselineOptions::validate() const {
  AXIAL_CHECK(min_order >= 1 && max_order >= min_order, "ngram",
              "orders {} to {}; expected 1 <= min_order <= max_order", min_order, max_order);
  AXIAL_CHECK(tuning_tokens >= 1, "ngram", "tuning_tokens {}; expected at least 1", tuning_tokens);
}

BaselineRow make_baseline_row(std::string name, double total_nats, int64_t tokens) {
  BaselineRow row{std::move(name), tokens};
  row.nats = total_nats / static_cast<double>(tokens);
  row.bits = row.nats / std::log(2.0);
  row.perplexity = std::exp(row.nats);
  return row;
}

const BaselineRow& BaselineTable::best_ngram() const {
  const BaselineRow* best = nullptr;
  for (const BaselineRow& row : rows) {
    if (row.ngram.order > 0 && (!best || row.nats < best->nats)) best = &row;
  }
  AXIAL_CHECK(best, "ngram", "the table has no n-gram row");
  return *best;
}

std::string BaselineTable::render() const {
  TextTable text({{"model"},
                  {"perplexity", Align::kRight},
                  {"nats/token", Align::kRight},
                  {"bits/token", Align::kRight},
                  {"tokens", Align::kRight}});
  for (const BaselineRow& row : rows) {
    text.add_row({row.name, fmt::format("{:.3f}", row.perplexity), fmt::format("{:.4f}", row.nats),
                  fmt::format("{:.4f}", row.bits), with_commas(row.tokens)});
  }
  return text.render();
}

NgramWeights tune_weights(const NgramModel& model, const TokenRecords& validation, int64_t n,
                          Smoothing smoothing, int64_t tuning_tokens) {
  const int64_t tokens = count_predicted(validation, model.vocab_size());
  return tune_on(take_sample(model, validation, tokens, tuning_tokens), model, n, smoothing);
}

BaselineTable compute_baselines(const NgramModel& model, const TokenRecords& validation,
                                const BaselineOptions& options,
                                const std::function<void(int64_t)>& on_tokens) {
  options.validate();
  const int64_t vocab = model.vocab_size();
  const int64_t tokens = count_predicted(validation, vocab);
  const Sample sample = take_sample(model, validation, tokens, options.tuning_tokens);
  std::vector<NgramWeights> models;
  for (const Smoothing smoothing : {Smoothing::kKneserNey, Smoothing::kPitmanYor}) {
    for (int64_t n = options.min_order; n <= std::min(options.max_order, model.order()); ++n) {
      models.push_back(tune_on(sample, model, n, smoothing));
    }
  }
  std::vector<LevelCounts> levels(static_cast<size_t>(model.order()));
  std::vector<double> nats(models.size());
  double unigram_nats = 0;
  int64_t seen = 0;
  const double unigram_total = static_cast<double>(model.num_tokens() + vocab);
  validation([&](std::span<const int32_t> record) {
    for (size_t i = 1; i < record.size(); ++i) {
      model.find(record, i, levels);
      unigram_nats -= std::log((levels[0].raw + 1.0) / unigram_total);
      for (size_t m = 0; m < models.size(); ++m) nats[m] -= std::log(interpolate(models[m], levels, vocab));
    }
    seen += static_cast<int64_t>(record.size());
    if (on_tokens) on_tokens(seen);
  });
  BaselineTable table;
  const double uniform = std::log(static_cast<double>(vocab)) * static_cast<double>(tokens);
  table.rows.push_back(make_baseline_row("uniform", uniform, tokens));
  table.rows.push_back(make_baseline_row("unigram", unigram_nats, tokens));
  for (size_t m = 0; m < models.size(); ++m) {
    const char* smoothing = models[m].smoothing == Smoothing::kPitmanYor ? "Pitman-Yor" : "Kneser-Ney";
    const std::string name = fmt::format("{}-gram {}", models[m].order, smoothing);
    table.rows.push_back(make_baseline_row(name, nats[m], tokens));
    table.rows.back().ngram = models[m];
  }
  return table;
}

}  // namespace axial::data
