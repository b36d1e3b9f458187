// SPDX-License-Identifier: Apache-2.0
// The state machine: shrink after overflows in a row, grow after a run of finite steps.
#include "axial/optim/loss_scaler/loss_scaler.h"

#include <algorithm>
#include <cmath>

#include "axial/core/check/check.h"

namespace axial::optim {

namespace {

constexpr const char* kOp = "loss_scaler";

template <class T>
T number_of(const nlohmann::json& state, const char* key) {
  AXIAL_CHECK(state.is_object() && state.contains(key) && state[key].is_number(), kOp,
              "state; expected a number under '{}', got {}", key, state.dump());
  return state[key].get<T>();
}

}  // namespace

void LossScalerOptions::validate() const {
  AXIAL_CHECK(minimum > 0 && std::isfinite(maximum) && minimum <= maximum, kOp,
              "minimum and maximum; expected 0 < minimum <= maximum, got {} and {}", minimum, maximum);
  AXIAL_CHECK(minimum <= initial && initial <= maximum, kOp, "initial; expected a number of [{}, {}], got {}",
              minimum, maximum, initial);
  AXIAL_CHECK(growth >= 1 && std::isfinite(growth), kOp, "growth; expected at least 1, got {}", growth);
  AXIAL_CHECK(0 < backoff && backoff < 1, kOp, "backoff; expected a number of (0, 1), got {}", backoff);
  AXIAL_CHECK(growth_interval >= 1, kOp, "growth_interval; expected at least 1, got {}", growth_interval);
  AXIAL_CHECK(hysteresis >= 1, kOp, "hysteresis; expected at least 1, got {}", hysteresis);
}

LossScaler::LossScaler(const LossScalerOptions& options, bool dynamic)
    : options_(options), dynamic_(dynamic) {
  options_.validate();
  if (dynamic_) scale_ = options_.initial;
}

void LossScaler::update(bool finite) {
  if (!dynamic_) return;
  if (!finite) {
    good_steps_ = 0;
    overflows_ += 1;
    if (overflows_ >= options_.hysteresis) scale_ = std::max(options_.minimum, scale_ * options_.backoff);
    return;
  }
  overflows_ = 0;
  good_steps_ += 1;
  if (good_steps_ < options_.growth_interval) return;
  good_steps_ = 0;
  scale_ = std::min(options_.maximum, scale_ * options_.growth);
}

nlohmann::json LossScaler::state() const {
  return {{"scale", scale_}, {"good_steps", good_steps_}, {"overflows", overflows_}};
}

void LossScaler::load_state(const nlohmann::json& state) {
  const auto scale = number_of<double>(state, "scale");
  const auto good_steps = number_of<int64_t>(state, "good_steps");
  const auto overflows = number_of<int64_t>(state, "overflows");
  AXIAL_CHECK(scale > 0 && std::isfinite(scale) && good_steps >= 0 && overflows >= 0, kOp,
              "state; expected a positive scale and counts of at least 0, got {}", state.dump());
  if (!dynamic_) return;  // a run that no longer scales stays at 1
  scale_ = std::clamp(scale, options_.minimum, options_.maximum);
  good_steps_ = good_steps;
  overflows_ = overflows;
}

}  // namespace axial::optim
