// SPDX-License-Identifier: Apache-2.0
// The schedule and the interleaving of mixture.h.
#include "axial/data/packing/mixture.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "axial/core/check/check.h"

namespace axial::data {
namespace {

constexpr int64_t kSmallPeriod = 4096;
constexpr int64_t kRowsPeriod = int64_t{1} << 22;
constexpr int64_t kCoarsePeriod = int64_t{1} << 20;

bool is_whole(double value) { return std::abs(value - std::round(value)) <= 1e-9 * std::max(1.0, value); }

// Counts per period: exact for small whole proportions or whole weights, else the largest remainders.
std::vector<int64_t> counts_of(const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const auto scaled = [&](double period) {
    std::vector<double> out;
    for (const double w : weights) out.push_back(w / sum * period);
    return out;
  };
  const auto rounded = [](const std::vector<double>& values) {
    std::vector<int64_t> out;
    for (const double v : values) out.push_back(std::llround(v));
    return out;
  };
  for (int64_t period = 1; period <= kSmallPeriod; ++period) {
    const std::vector<double> values = scaled(static_cast<double>(period));
    if (std::all_of(values.begin(), values.end(), [](double v) { return v >= 0.5 && is_whole(v); })) {
      return rounded(values);
    }
  }
  const bool whole =
      std::all_of(weights.begin(), weights.end(), [](double w) { return w >= 1 && w == std::floor(w); });
  if (whole && sum <= static_cast<double>(kRowsPeriod)) return rounded(weights);

  const std::vector<double> values = scaled(static_cast<double>(kCoarsePeriod));
  std::vector<int64_t> counts;
  for (const double v : values) counts.push_back(std::max<int64_t>(1, static_cast<int64_t>(v)));
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return values[a] - std::floor(values[a]) > values[b] - std::floor(values[b]);
  });
  int64_t missing = kCoarsePeriod - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (size_t i = 0; missing > 0; i = (i + 1) % order.size(), --missing) ++counts[order[i]];
  return counts;
}

}  // namespace

MixtureSchedule::MixtureSchedule(const std::vector<double>& weights) {
  AXIAL_CHECK(!weights.empty(), "mixture", "no source; expected at least one");
  for (const double w : weights) {
    AXIAL_CHECK(std::isfinite(w) && w > 0, "mixture", "weight; expected a finite number above 0, got {}", w);
  }
  counts_ = counts_of(weights);
  fill(std::accumulate(counts_.begin(), counts_.end(), int64_t{0}));
}

// After n rows, source i lags by n * share - given; all times `period` to stay in whole numbers. Among those
// that lag enough, the one whose deadline comes first goes next.
void MixtureSchedule::fill(int64_t period) {
  const auto k = static_cast<int64_t>(counts_.size());
  const int64_t slack = std::max<int64_t>(1, 2 * k - 2);
  std::vector<int64_t> given(counts_.size());
  slots_.reserve(static_cast<size_t>(period));
  for (int64_t n = 1; n <= period; ++n) {
    size_t best = counts_.size();
    __int128 best_need = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      const int64_t lag = n * counts_[i] - period * given[i];
      if (lag * slack < period && k > 1) continue;
      const __int128 need = static_cast<__int128>(slack - 1) * period - static_cast<__int128>(slack) * lag;
      if (best == counts_.size() || need * counts_[best] < best_need * counts_[i]) {
        best = i;
        best_need = need;
      }
    }
    slots_.push_back({static_cast<uint32_t>(best), static_cast<uint32_t>(given[best]++)});
  }
}

MixtureSchedule::Place MixtureSchedule::at(int64_t row) const {
  AXIAL_CHECK(row >= 0, "mixture", "row; expected at least 0, got {}", row);
  const Slot& slot = slots_[static_cast<size_t>(row % period())];
  return {slot.source, row / period() * counts_[slot.source] + slot.index};
}

namespace {

const parallel::SequenceLayout& common_layout(const std::vector<std::unique_ptr<RowSource>>& sources) {
  AXIAL_CHECK(!sources.empty(), "mixture", "no source; expected at least one");
  for (const auto& source : sources) {
    AXIAL_CHECK(source->layout().length() == sources[0]->layout().length(), "mixture",
                "row length of a source; expected {}, got {}", sources[0]->layout().length(),
                source->layout().length());
  }
  return sources[0]->layout();
}

std::vector<double> weights_or_rows(const std::vector<std::unique_ptr<RowSource>>& sources,
                                    std::vector<double> weights) {
  if (weights.empty()) {
    for (const auto& source : sources) weights.push_back(static_cast<double>(source->num_rows()));
  }
  AXIAL_CHECK(weights.size() == sources.size(), "mixture", "weights; expected one per source ({}), got {}",
              sources.size(), weights.size());
  return weights;
}

}  // namespace

MixtureSource::MixtureSource(std::vector<std::unique_ptr<RowSource>> sources, std::vector<double> weights)
    : RowSource(common_layout(sources)),
      sources_(std::move(sources)),
      schedule_(weights_or_rows(sources_, std::move(weights))) {}

int64_t MixtureSource::num_rows() const {
  int64_t sum = 0;
  for (const auto& source : sources_) sum += source->num_rows();
  return sum;
}

int64_t MixtureSource::num_tokens() const {
  int64_t sum = 0;
  for (const auto& source : sources_) sum += source->num_tokens();
  return sum;
}

SourceRow MixtureSource::row(int64_t index) const {
  const MixtureSchedule::Place place = schedule_.at(index);
  SourceRow out = sources_[static_cast<size_t>(place.source)]->row(place.index);
  out.row.sample_id = index;
  return out;
}

}  // namespace axial::data
