// SPDX-License-Identifier: Apache-2.0
// The settings of a recipe that trade memory for time or messages and leave the results as they are: what a
// sweep tries on every mesh, and what is tried for a recipe that does not fit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "axial/train/recipe/run_recipe.h"

namespace axial::train {

/// One setting.
struct Switch {
  std::string key;  ///< "train.recompute_group"
  /// What it can be with the rest of the recipe, whose `parallel.data` is set: from most memory, and least
  /// time, to least memory; none: it does nothing there.
  std::function<std::vector<int64_t>(const RunRecipe&)> values;
  std::function<int64_t(const RunRecipe&)> get;
  std::function<void(RunRecipe&, int64_t)> set;
  std::function<std::string(int64_t)> text;  ///< a value as recipes write it
  bool swept = true;                         ///< false: a sweep leaves it as the recipe says

  /// "train.recompute_group=1", as --set takes it.
  std::string with(int64_t value) const { return key + "=" + text(value); }
};

/// All of them, those that cost most time first. Another policy is one more line.
std::vector<Switch> memory_switches();

/// Every one of a sweep at what takes least memory.
RunRecipe most_frugal(RunRecipe recipe);

}  // namespace axial::train
