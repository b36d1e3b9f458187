// SPDX-License-Identifier: Apache-2.0
// A step per role, replayed by the allocator of the device.
#include "axial/train/plan/plan.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <set>

#include "axial/core/check/check.h"
#include "axial/data/tokenizer/tokenizer.h"

namespace axial::train {

namespace {

// One for every set of axes along which this rank sends tensors; what ranks agree on goes over the host.
int64_t num_communicators(const RankPlan& plan) {
  std::set<std::string> axes;
  for (const auto& [key, traffic] : plan.traffic) {
    if (traffic.bytes > 0 && key.second != "control") axes.insert(key.first);
  }
  return static_cast<int64_t>(axes.size());
}

std::vector<ops::BytesByUse> timeline_of(const std::vector<ops::MemoryEvent>& events) {
  const size_t stretch = events.size() / kTimeline + 1;
  std::vector<ops::BytesByUse> out;
  std::map<int64_t, ops::MemoryEvent> live;
  ops::BytesByUse now{}, highest{};
  const auto sum = [](const ops::BytesByUse& bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  };
  for (size_t i = 0; i < events.size(); ++i) {
    const ops::MemoryEvent& event = events[i];
    ops::MemoryEvent& known = live[event.allocation];
    if (event.bytes > 0) known = event;
    if (event.bytes == 0) {  // another use
      now[static_cast<size_t>(known.use)] -= known.bytes;
      now[static_cast<size_t>(event.use)] += known.bytes;
      known.use = event.use;
    } else {
      now[static_cast<size_t>(event.use)] += event.bytes;
    }
    if (event.bytes < 0) live.erase(event.allocation);
    if (i % stretch == 0 || sum(now) > sum(highest)) highest = now;
    if (i % stretch + 1 == stretch || i + 1 == events.size()) out.push_back(highest);
  }
  return out;
}

}  // namespace

StepToPlan step_of(const RunRecipe& recipe, const models::ModelRegistry& registry,
                   const data::Tokenizer& tokenizer, int64_t world_size) {
  StepToPlan what;
  what.build = [&] { return build_model(recipe, registry, tokenizer); };
  what.registry = &registry;
  what.train = recipe.train;
  what.parallel = recipe.parallel;
  what.world_size = world_size;
  what.row_length = recipe.data.sequence_length;
  return what;
}

Plan plan_recipe(const RunRecipe& recipe, const models::ModelRegistry& registry, int64_t world_size,
                 const Device& device, const WorkOfRecipe& work) {
  const auto begin = std::chrono::steady_clock::now();
  const auto tokenizer = data::make_tokenizer(recipe.data.tokenizer);
  StepToPlan what = step_of(recipe, registry, *tokenizer, world_size);
  what.work = work.kind;
  what.windows = work.windows;
  what.on_action = work.on_action;
  const parallel::Mesh mesh = parallel::make_mesh(recipe.parallel, world_size, 0);
  const models::Model model = what.build();
  Plan plan;
  plan.device = device;
  plan.work = work.kind;
  plan.world_size = world_size;
  plan.row_length = recipe.data.sequence_length;
  plan.batch = recipe.train.batch;
  plan.micro_batch = recipe.train.micro_batch;
  plan.micro_batches = static_cast<int64_t>(micro_batches_of(recipe.train, mesh, 0).size());
  if (work.kind != PlannedWork::kTraining) {
    plan.row_length = window_of(what, model);
    plan.micro_batch = tokens_of_rows(what, model) / plan.row_length;
    plan.micro_batches = 1;
    plan.batch = plan.micro_batch * mesh.degree("data");
  }
  plan.precision = recipe.train.precision;
  plan.parallel = recipe.parallel;
  plan.parameters = model.parameters->num_elements();
  for (RankPlan& step : plan_step(what, /*with_events=*/true)) {
    PlannedRanks& ranks = plan.roles.emplace_back();
    ranks.outside_bytes = device.context + num_communicators(step) * device.communicator;
    const int64_t capacity = std::max<int64_t>(device.memory - ranks.outside_bytes, 1);
    ranks.reserved = replay(step.events, {capacity, device.expandable_segments});
    if (!ranks.reserved.fits) {  // by how much: without a limit
      ranks.reserved = replay(step.events, {0, device.expandable_segments});
      ranks.reserved.fits = false;
    }
    ranks.timeline = timeline_of(step.events);
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
  return host_spare_bytes() >= 0 &&
         std::all_of(roles.begin(), roles.end(), [](const PlannedRanks& r) { return r.reserved.fits; });
}

int64_t Plan::spare_bytes() const {
  const int64_t spare = device.memory - largest().needed_bytes();
  return std::min(spare, host_spare_bytes() < 0 ? host_spare_bytes() : spare);
}

int64_t Plan::host_spare_bytes() const {
  int64_t most = 0;
  for (const PlannedRanks& r : roles) most = std::max(most, r.step.offloaded.host.peak);
  return device.host > 0 ? device.host - most : 0;
}

int64_t largest_that_fits(int64_t unit, int64_t most, const std::function<bool(int64_t)>& fits) {
  AXIAL_CHECK(unit >= 1 && most >= unit, "plan", "unit and limit; expected 1 <= unit <= limit, got {} and {}",
              unit, most);
  int64_t good = 0, bad = most / unit + 1;  // in units
  for (int64_t next = 1; next < bad; next *= 2) (fits(next * unit) ? good : bad) = next;
  while (bad - good > 1) {
    const int64_t middle = good + (bad - good) / 2;
    (fits(middle * unit) ? good : bad) = middle;
  }
  return good * unit;
}

}  // namespace axial::train
