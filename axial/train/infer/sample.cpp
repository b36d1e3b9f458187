// SPDX-License-Identifier: Apache-2.0
// Temperature, top-k, top-p and the draw, in double.
#include "axial/train/infer/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "axial/core/check/check.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "generate";

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

}  // namespace

void SamplingOptions::validate() const {
  AXIAL_CHECK(std::isfinite(temperature) && temperature >= 0, kOp, "temperature; expected 0 or more, got {}",
              temperature);
  AXIAL_CHECK(top_k >= 0, kOp, "top_k; expected 0 or more, got {}", top_k);
  AXIAL_CHECK(top_p > 0 && top_p <= 1, kOp, "top_p; expected above 0 and at most 1, got {}", top_p);
}

Sampled sample_token(std::span<const float> logits, const std::vector<bool>& forbidden,
                     const SamplingOptions& options, double uniform) {
  for (const float logit : logits)
    AXIAL_CHECK(std::isfinite(logit), kOp, "the model gave a logit that is not finite");
  AXIAL_CHECK(forbidden.size() == logits.size(), kOp, "expected {} flags, got {}", logits.size(),
              forbidden.size());
  std::vector<int32_t> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!forbidden[i]) order.push_back(static_cast<int32_t>(i));
  }
  AXIAL_CHECK(!order.empty(), kOp, "no token is allowed here");
  const auto at = [&](int32_t id) { return static_cast<double>(logits[static_cast<size_t>(id)]); };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
  const auto chosen = [&](int32_t id) { return Sampled{id, at(id) - log_sum_exp(logits)}; };
  if (options.temperature == 0) return chosen(order.front());
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < order.size()) {
    order.resize(static_cast<size_t>(options.top_k));
  }
  std::vector<double> weights;
  for (const int32_t id : order)
    weights.push_back(std::exp((at(id) - at(order.front())) / options.temperature));
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (options.top_p < 1) {
    double kept = 0;
    size_t count = 0;
    while (count < weights.size() && kept < options.top_p * total) kept += weights[count++];
    weights.resize(count);
    total = kept;
  }
  double left = uniform * total;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return chosen(order[i]);
  }
  return chosen(order[weights.size() - 1]);
}

}  // namespace axial::train
