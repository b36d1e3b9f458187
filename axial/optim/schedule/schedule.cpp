// SPDX-License-Identifier: Apache-2.0
// Factors of the peak learning rate, computed from the step alone so that a resumed run needs no state.
#include "axial/optim/schedule/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::optim {

namespace {

constexpr const char* kOp = "schedule";

}  // namespace

void ScheduleOptions::validate() const {
  const std::vector<std::string> kinds{"cosine", "linear", "constant"};
  AXIAL_CHECK(std::find(kinds.begin(), kinds.end(), kind) != kinds.end(), kOp,
              "kind; expected one of {}, got '{}'{}", fmt::join(kinds, ", "), kind,
              did_you_mean(kind, kinds));
  AXIAL_CHECK(warmup_steps >= 0, kOp, "warmup_steps; expected at least 0, got {}", warmup_steps);
  AXIAL_CHECK(0 <= min_ratio && min_ratio <= 1, kOp, "min_ratio; expected a number of [0, 1], got {}",
              min_ratio);
}

double schedule_factor(const ScheduleOptions& options, int64_t step, int64_t total_steps) {
  options.validate();
  AXIAL_CHECK(step >= 0, kOp, "step; expected at least 0, got {}", step);
  AXIAL_CHECK(total_steps >= 1, kOp, "total_steps; expected at least 1, got {}", total_steps);
  if (step < options.warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  }
  if (options.kind == "constant") return 1.0;
  if (step >= total_steps - 1) return options.min_ratio;
  const double progress = static_cast<double>(step - options.warmup_steps) /
                          static_cast<double>(total_steps - 1 - options.warmup_steps);
  const double shape =
      options.kind == "linear" ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return options.min_ratio + (1.0 - options.min_ratio) * shape;
}

}  // namespace axial::optim
