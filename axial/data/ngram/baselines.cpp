// SPDX-License-Identifier: Apache-2.0
// Tuning and judging of baselines.h.
#include "axial/data/ngram/baselines.h"

#include <algorithm>
#include <cmath>

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

/// P = offset + slope * D for one discount, every other one fixed, per sampled token.
struct Lines {
  std::vector<double> offset, slope;
  double mean_ln(double discount) const {
    double sum = 0;
    for (size_t i = 0; i < offset.size(); ++i) sum += std::log(offset[i] + slope[i] * discount);
    return sum / static_cast<double>(offset.size());
  }
};

Lines lines_in(const Sample& sample, KneserNey model, size_t k, int64_t vocab_size) {
  Lines lines;
  KneserNey zero = model, one = model;
  zero.discounts[k] = 0;
  one.discounts[k] = 1;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double at_zero = interpolate(zero, sample.at(i), vocab_size);
    lines.offset.push_back(at_zero);
    lines.slope.push_back(interpolate(one, sample.at(i), vocab_size) - at_zero);
  }
  return lines;
}

/// The discount in [kLowest, 1] with the highest mean log-likelihood, to 1e-4.
double best_discount(const Lines& lines) {
  const double golden = (std::sqrt(5.0) - 1) / 2;
  double low = kLowest, high = 1;
  double left = high - golden * (high - low), right = low + golden * (high - low);
  double at_left = lines.mean_ln(left), at_right = lines.mean_ln(right);
  while (high - low > 1e-4) {
    if (at_left >= at_right) {
      high = right;
      right = left;
      at_right = at_left;
      left = high - golden * (high - low);
      at_left = lines.mean_ln(left);
    } else {
      low = left;
      left = right;
      at_left = at_right;
      right = low + golden * (high - low);
      at_right = lines.mean_ln(right);
    }
  }
  // The end points are candidates too: an optimum at the border is only approached from inside.
  double best = (low + high) / 2, at_best = lines.mean_ln(best);
  for (const double end : {kLowest, 1.0}) {
    if (const double value = lines.mean_ln(end); value > at_best) best = end, at_best = value;
  }
  return best;
}

KneserNey tune_on(const Sample& sample, const NgramModel& model, int64_t n) {
  KneserNey tuned = model.estimated(n);
  double before = -1e300;
  for (int sweep = 0; sweep < 20; ++sweep) {
    double now = before;
    for (size_t k = tuned.discounts.size(); k-- > 0;) {
      const Lines lines = lines_in(sample, tuned, k, model.vocab_size());
      tuned.discounts[k] = best_discount(lines);
      now = lines.mean_ln(tuned.discounts[k]);
    }
    if (now - before < 1e-6) break;
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
    if (!row.discounts.empty() && (!best || row.nats < best->nats)) best = &row;
  }
  AXIAL_CHECK(best, "ngram", "the table has no n-gram row");
  return *best;
}

std::string BaselineTable::render() const {
  TextTable text({{"model"},
                  {"perplexity", Align::right},
                  {"nats/token", Align::right},
                  {"bits/token", Align::right},
                  {"tokens", Align::right},
                  {"discounts"}});
  for (const BaselineRow& row : rows) {
    std::string discounts;
    for (const double d : row.discounts)
      discounts += fmt::format("{}{:.3f}", discounts.empty() ? "" : " ", d);
    text.add_row({row.name, fmt::format("{:.3f}", row.perplexity), fmt::format("{:.4f}", row.nats),
                  fmt::format("{:.4f}", row.bits), with_commas(row.tokens), discounts});
  }
  return text.render();
}

KneserNey tune_discounts(const NgramModel& model, const TokenRecords& validation, int64_t n,
                         int64_t tuning_tokens) {
  const int64_t tokens = count_predicted(validation, model.vocab_size());
  return tune_on(take_sample(model, validation, tokens, tuning_tokens), model, n);
}

BaselineTable compute_baselines(const NgramModel& model, const TokenRecords& validation,
                                const BaselineOptions& options,
                                const std::function<void(int64_t)>& on_tokens) {
  options.validate();
  const int64_t vocab = model.vocab_size();
  const int64_t tokens = count_predicted(validation, vocab);
  const Sample sample = take_sample(model, validation, tokens, options.tuning_tokens);
  std::vector<KneserNey> models;
  for (int64_t n = options.min_order; n <= std::min(options.max_order, model.order()); ++n) {
    models.push_back(tune_on(sample, model, n));
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
    table.rows.push_back(
        make_baseline_row(fmt::format("{}-gram Kneser-Ney", models[m].order), nats[m], tokens));
    table.rows.back().discounts = models[m].discounts;
  }
  return table;
}

}  // namespace axial::data
