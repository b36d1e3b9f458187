// SPDX-License-Identifier: Apache-2.0
// The plan of a recipe on so many devices: what every rank takes, whether it fits, and the longest that does.
// Called by `axial plan`.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "axial/train/plan/caching_allocator.h"
#include "axial/train/plan/device.h"
#include "axial/train/plan/plan_step.h"
#include "axial/train/recipe/run_recipe.h"

namespace axial::train {

inline constexpr int64_t kTimeline = 600;

/// Ranks of one role on a device.
struct PlannedRanks {
  RankPlan step;
  Reserved reserved;  ///< of torch's allocator on this device
  /// Bytes by use as the step goes on, at most kTimeline points: of each stretch of allocations its highest.
  std::vector<ops::BytesByUse> timeline;
  int64_t outside_bytes = 0;  ///< context and communicators
  int64_t needed_bytes() const { return reserved.peak_reserved + outside_bytes; }
};

/// What is planned of a recipe: training, or one batch of windows of inference in train.precision.
struct WorkOfRecipe {
  PlannedWork kind = PlannedWork::kTraining;
  WindowOptions windows;
  std::function<void(int64_t done, int64_t total)> on_action = nullptr;  ///< StepToPlan
};

/// A step of training, or a batch of inference, on a mesh of equal devices.
struct Plan {
  Device device;
  PlannedWork work = PlannedWork::kTraining;
  int64_t world_size = 1;
  int64_t row_length = 0;
  int64_t batch = 0;          ///< rows of a step, over all ranks
  int64_t micro_batch = 0;    ///< rows in memory at a time
  int64_t micro_batches = 0;  ///< of a rank in a step
  Precision precision = Precision::kFp32;
  parallel::MeshOptions parallel;
  int64_t parameters = 0;  ///< of the model
  double seconds = 0;      ///< that planning took
  std::vector<PlannedRanks> roles;

  /// The role that needs most.
  const PlannedRanks& largest() const;
  bool fits() const;
  /// Bytes of the device that the largest role leaves; negative: that it, or else the host, lacks. When the
  /// device is full before a step ends, what all of the step would have taken without a limit.
  int64_t spare_bytes() const;
  /// Likewise of the device's share of the host; 0 where that is not known.
  int64_t host_spare_bytes() const;
};

/// The step of a recipe's run; all must outlive it.
StepToPlan step_of(const RunRecipe& recipe, const models::ModelRegistry& registry,
                   const data::Tokenizer& tokenizer, int64_t world_size);

/// Run the recipe's step, or other work, without data. Throws what plan_step and build_model throw.
Plan plan_recipe(const RunRecipe& recipe, const models::ModelRegistry& registry, int64_t world_size,
                 const Device& device, const WorkOfRecipe& work = {});

/// The largest multiple of `unit` that fits, from `unit` on; 0: none does. `fits` holds up to some number and
/// not beyond; asked of about 2 log2(result / unit) numbers, at most of `most`.
int64_t largest_that_fits(int64_t unit, int64_t most, const std::function<bool(int64_t)>& fits);

struct EstimateAssumptions;
nlohmann::json to_json(const Plan& plan, const EstimateAssumptions& assumptions);
/// An SVG of what lives on the largest role as its step goes on, stacked by use.
std::string to_picture(const Plan& plan);
/// Tables for the terminal.
std::string to_text(const Plan& plan, const EstimateAssumptions& assumptions);

}  // namespace axial::train
