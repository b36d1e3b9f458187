// SPDX-License-Identifier: Apache-2.0
// A step per role, replayed by the allocator of the device.
#include "axial/train/plan/plan.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "axial/core/check/check.h"
#include "axial/data/tokenizer/tokenizer.h"

namespace axial::train {

namespace {

// One for every set of axes along which this rank sends.
int64_t num_communicators(const RankPlan& plan) {
  std::set<std::string> axes;
  for (const auto& [key, traffic] : plan.traffic) {
    if (traffic.bytes > 0) axes.insert(key.first);
  }
  return static_cast<int64_t>(axes.size());
}

}  // namespace

Plan plan_recipe(const RunRecipe& recipe, const models::ModelRegistry& registry, int64_t world_size,
                 const Device& device) {
  const auto begin = std::chrono::steady_clock::now();
  const auto tokenizer = data::make_tokenizer(recipe.data.tokenizer);
  StepToPlan what;
  what.build = [&] { return build_model(recipe, registry, *tokenizer); };
  what.registry = &registry;
  what.train = recipe.train;
  what.parallel = recipe.parallel;
  what.world_size = world_size;
  what.row_length = recipe.data.sequence_length;
  Plan plan;
  plan.device = device;
  plan.world_size = world_size;
  plan.row_length = recipe.data.sequence_length;
  plan.batch = recipe.train.batch;
  plan.micro_batch = recipe.train.micro_batch;
  plan.parameters = what.build().parameters->num_elements();
  for (RankPlan& step : plan_step(what, /*with_events=*/true)) {
    PlannedRanks& ranks = plan.roles.emplace_back();
    ranks.outside_bytes = device.context + num_communicators(step) * device.communicator;
    const int64_t capacity = std::max<int64_t>(device.memory - ranks.outside_bytes, 1);
    ranks.reserved = replay(step.events, {capacity, device.expandable_segments});
    if (!ranks.reserved.fits) {  // by how much: without a limit
      ranks.reserved = replay(step.events, {0, device.expandable_segments});
      ranks.reserved.fits = false;
    }
    step.events = {};
    ranks.step = std::move(step);
  }
  plan.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return plan;
}

const PlannedRanks& Plan::largest() const {
  return *std::max_element(roles.begin(), roles.end(), [](const PlannedRanks& a, const PlannedRanks& b) {
    return std::pair(!a.reserved.fits, a.needed_bytes()) < std::pair(!b.reserved.fits, b.needed_bytes());
  });
}

bool Plan::fits() const {
  return std::all_of(roles.begin(), roles.end(), [](const PlannedRanks& r) { return r.reserved.fits; });
}

int64_t Plan::spare_bytes() const { return device.memory - largest().needed_bytes(); }

int64_t largest_that_fits(int64_t unit, int64_t most, const std::function<bool(int64_t)>& fits) {
  AXIAL_CHECK(unit >= 1 && most >= unit, "plan", "unit and limit; expected 1 <= unit <= limit, got {} and {}",
              unit, most);
  int64_t good = 0, bad = most / unit + 1;  // in units
  for (int64_t next = 1; next < bad; next = std::min(2 * next, std::max(bad - 1, next + 1))) {
    if (!fits(next * unit)) {
      bad = next;
      break;
    }
    good = next;
    if (next == bad - 1) return good * unit;
  }
  while (bad - good > 1) {
    const int64_t middle = good + (bad - good) / 2;
    (fits(middle * unit) ? good : bad) = middle;
  }
  return good * unit;
}

}  // namespace axial::train
