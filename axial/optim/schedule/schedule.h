// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules: linear warm-up, then cosine, linear or constant. A pure function of the step.
#pragma once

#include <cstdint>
#include <string>

namespace axial::optim {

/// How the learning rate moves over a run.
struct ScheduleOptions {
  std::string kind = "cosine";
  int64_t warmup_steps = 0;
  double min_ratio = 0.1;

  template <class V>
  void fields(V& v) {
    v("kind", kind, "cosine | linear | constant, after the warm-up");
    v("warmup_steps", warmup_steps, "steps of linear warm-up");
    v("min_ratio", min_ratio, "learning rate at the last step over its peak (cosine, linear)");
  }
  void validate() const;  ///< throws ValueError
};

/// Factor of the peak learning rate for update `step` (counted from 0) of `total_steps`: (step + 1) /
/// warmup_steps while warming up, min_ratio at step total_steps - 1 and beyond.
double schedule_factor(const ScheduleOptions& options, int64_t step, int64_t total_steps);

}  // namespace axial::optim
