// SPDX-License-Identifier: Apache-2.0
// What a recipe that does not fit could change: every switch of memory alone, planned. Called by `axial
// plan`.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "axial/train/plan/plan.h"

namespace axial::train {

/// A change, and what the plan says of it.
struct Advice {
  std::string change;       ///< "train.recompute_group=1"; several: those of a last resort
  int64_t saved_bytes = 0;  ///< of the rank that needs most
  int64_t spare_bytes = 0;  ///< that are then left; negative: still missing
  bool fits = false;
};

/// Plans recipes on one device and mesh: plan_recipe, or a test's own.
using Planning = std::function<Plan(const RunRecipe&)>;

/// Every value of every switch that takes less memory than the recipe's own, alone, largest effect first;
/// and, where none of them fits alone, all that save anything together. A value that does not fit the model
/// is left out, and so is one that saves nothing. A plan each; `on_plan` is told how many are done and of
/// how many. `plan` is that of the recipe.
std::vector<Advice> advise(const RunRecipe& recipe, const Plan& plan, const Planning& planning,
                           const std::function<void(int64_t done, int64_t total)>& on_plan = {});

/// A table for the terminal, or that nothing helps.
std::string advice_text(const std::vector<Advice>& advice);
nlohmann::json advice_json(const std::vector<Advice>& advice);

}  // namespace axial::train
