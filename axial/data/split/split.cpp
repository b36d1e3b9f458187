// SPDX-License-Identifier: Apache-2.0
// The two ways to split of split.h, over the distinct records in the order of their content hashes.
#include "axial/data/split/split.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "axial/core/check/check.h"
#include "axial/core/progress/progress.h"
#include "axial/core/rng/rng.h"
#include "axial/data/split/sketch.h"

namespace axial::data {
namespace {

// One distinct content: all records of it are placed together.
struct Distinct {
  uint64_t hash = 0;
  int64_t record = 0;  // one of them
  int64_t copies = 0;
  int64_t tokens = 0;  // of all copies
};

std::vector<Distinct> distinct_of(const SplitInput& input) {
  std::vector<int64_t> order(input.content_hashes.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto hash = [&](int64_t i) { return input.content_hashes[static_cast<size_t>(i)]; };
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return hash(a) != hash(b) ? hash(a) < hash(b) : a < b; });
  std::vector<Distinct> out;
  for (const int64_t record : order) {
    if (out.empty() || out.back().hash != hash(record)) out.push_back({hash(record), record, 0, 0});
    ++out.back().copies;
    out.back().tokens += input.num_tokens[static_cast<size_t>(record)];
  }
  return out;
}

RngKey split_key(uint64_t seed) { return root_key(seed).child("split"); }

// One flag per distinct record.
std::vector<uint8_t> split_by_hash(const std::vector<Distinct>& items, double fraction, uint64_t seed,
                                   SplitReport& report) {
  std::vector<uint8_t> chosen(items.size());
  std::vector<double> draws(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    draws[i] = random_uniform(split_key(seed), items[i].hash);
    chosen[i] = draws[i] < fraction;
  }
  const auto count = std::count(chosen.begin(), chosen.end(), uint8_t{1});
  if (items.size() < 2) {
    if (count > 0) chosen[0] = 0;
    report.notes.emplace_back("there is only one distinct record: it trains, and nothing validates");
  } else if (count == 0) {
    chosen[static_cast<size_t>(std::min_element(draws.begin(), draws.end()) - draws.begin())] = 1;
    report.notes.push_back(
        fmt::format("validation_fraction {} of {} distinct records gave none: one was moved to validation",
                    fraction, items.size()));
  } else if (count == static_cast<int64_t>(items.size())) {
    chosen[static_cast<size_t>(std::max_element(draws.begin(), draws.end()) - draws.begin())] = 0;
    report.notes.push_back(
        fmt::format("validation_fraction {} of {} distinct records gave all: one was moved to training",
                    fraction, items.size()));
  }
  return chosen;
}

struct Group {
  uint64_t hash = 0;  // smallest content hash in it
  int64_t members = 0;
  int64_t tokens = 0;
  double draw = 0;
};

// Clusters in a seeded order go to validation as long as they fit; returns the tokens reached.
int64_t choose(const std::vector<Distinct>& items, const std::vector<int64_t>& labels, double wanted,
               uint64_t seed, std::vector<uint8_t>& chosen, SplitReport& report) {
  std::unordered_map<int64_t, Group> by_label;
  for (size_t i = 0; i < items.size(); ++i) {
    Group& group = by_label[labels[i]];
    if (group.members++ == 0) group.hash = items[i].hash;  // items are sorted by hash
    group.tokens += items[i].tokens;
  }
  std::vector<std::pair<Group, int64_t>> groups;
  int64_t total = 0;
  report.largest_cluster = 0;
  int64_t largest_tokens = 0;
  for (auto& [label, group] : by_label) {
    group.draw = random_uniform(split_key(seed), group.hash);
    groups.emplace_back(group, label);
    total += group.tokens;
    report.largest_cluster = std::max(report.largest_cluster, group.members);
    largest_tokens = std::max(largest_tokens, group.tokens);
  }
  std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
    return a.first.draw != b.first.draw ? a.first.draw < b.first.draw : a.first.hash < b.first.hash;
  });
  std::unordered_map<int64_t, bool> taken;
  int64_t reached = 0;
  for (const auto& [group, label] : groups) {
    if (static_cast<double>(reached) >= wanted) break;
    if (static_cast<double>(reached + group.tokens) > 1.1 * wanted) continue;
    reached += group.tokens;
    taken[label] = true;
  }
  for (size_t i = 0; i < items.size(); ++i) chosen[i] = taken.contains(labels[i]);
  report.clusters = static_cast<int64_t>(groups.size());
  report.largest_share = static_cast<double>(largest_tokens) / static_cast<double>(total);
  return reached;
}

std::vector<uint8_t> split_by_cluster(const std::vector<Distinct>& items, const SplitInput& input,
                                      const SplitOptions& options, uint64_t seed, SplitReport& report) {
  std::vector<detail::Sketch> sketches(items.size());
  std::string text;
  int64_t total = 0;
  Progress progress({.label = "sketch records",
                     .unit = "records",
                     .total = static_cast<int64_t>(items.size()),
                     .quiet_s = 5});
  for (size_t i = 0; i < items.size(); ++i) {
    input.text_of(items[i].record, text);
    sketches[i] = detail::make_sketch(text, input.nucleotides);
    total += items[i].tokens;
    progress.advance(1);
  }
  progress.finish();
  const double wanted = options.validation_fraction * static_cast<double>(total);
  constexpr int kHalvings = 8;
  double distance = 1 - options.near_duplicate_identity;
  std::vector<uint8_t> chosen(items.size());
  for (int step = 0; step <= kHalvings && distance > 0; ++step, distance /= 2) {
    const double threshold =
        detail::similarity_at_identity(1 - distance, detail::kmer_length(input.nucleotides));
    const std::vector<int64_t> labels = detail::cluster(sketches, threshold);
    const int64_t reached = choose(items, labels, wanted, seed, chosen, report);
    if (step == 0 && static_cast<double>(reached) < 0.5 * wanted) {
      report.notes.push_back(fmt::format(
          "at identity {:.6g} the largest of {} clusters holds {:.1f} % of the tokens, too much for a "
          "validation share of {}: the threshold is raised",
          1 - distance, report.clusters, 100 * report.largest_share, options.validation_fraction));
    }
    if (static_cast<double>(reached) >= 0.5 * wanted) {
      report.identity_used = 1 - distance;
      if (step > 0)
        report.notes.push_back(
            fmt::format("near duplicates are kept together from identity {:.6g}", 1 - distance));
      return chosen;
    }
  }
  report.identity_used = 1;
  if (options.near_duplicate_identity < 1) {
    report.notes.emplace_back("no threshold allowed the share: only identical records are kept together");
  }
  report.clusters = static_cast<int64_t>(items.size());
  report.largest_cluster = 1;
  report.largest_share = 0;
  for (const Distinct& item : items) {
    report.largest_share =
        std::max(report.largest_share, static_cast<double>(item.tokens) / static_cast<double>(total));
  }
  return split_by_hash(items, options.validation_fraction, seed, report);
}

}  // namespace

void SplitOptions::validate() const {
  AXIAL_CHECK(validation_fraction >= 0 && validation_fraction < 1, "split",
              "validation_fraction; expected at least 0 and below 1, got {}", validation_fraction);
  AXIAL_CHECK(near_duplicate_identity >= 0.8 && near_duplicate_identity <= 1, "split",
              "near_duplicate_identity; expected 0.8 to 1, got {}", near_duplicate_identity);
}

Split split_records(const SplitInput& input, const SplitOptions& options, uint64_t seed) {
  options.validate();
  AXIAL_CHECK(input.content_hashes.size() == input.num_tokens.size(), "split",
              "content_hashes and num_tokens; expected equal sizes, got {} and {}",
              input.content_hashes.size(), input.num_tokens.size());
  Split split;
  split.validation.resize(input.content_hashes.size());
  const std::vector<Distinct> items = distinct_of(input);
  split.report.distinct = static_cast<int64_t>(items.size());
  split.report.clusters = split.report.distinct;
  if (options.validation_fraction == 0 || items.empty()) return split;
  const bool cluster = options.keep_near_duplicates_together && items.size() > 1;
  const std::vector<uint8_t> chosen =
      cluster ? split_by_cluster(items, input, options, seed, split.report)
              : split_by_hash(items, options.validation_fraction, seed, split.report);
  std::unordered_map<uint64_t, uint8_t> side;
  for (size_t i = 0; i < items.size(); ++i) {
    side[items[i].hash] = chosen[i];
    if (!chosen[i]) continue;
    split.report.validation_records += items[i].copies;
    split.report.validation_tokens += items[i].tokens;
  }
  for (size_t i = 0; i < split.validation.size(); ++i) split.validation[i] = side[input.content_hashes[i]];
  return split;
}

}  // namespace axial::data
