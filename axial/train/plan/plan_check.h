// SPDX-License-Identifier: Apache-2.0
// What a plan says of a step against the step itself on real ranks: the peak of its tensors within a
// hundredth, what it sends and what leaves the device to the byte. AXIAL_PLAN_TABLE names a file for the
// table. Shared by the tests of plans.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "axial/models/common/parallelize.h"
#include "axial/parallel/communicator/world.h"
#include "axial/train/plan/plan_case.h"
#include "axial/train/testing/compare_runs.h"

namespace axial::train::testing {

using parallel::Mesh;
using parallel::World;

struct Counted {
  int64_t peak = 0, resident = 0;
  parallel::OffloadBytes offloaded;
  ops::BytesByUse at_peak{};
  std::map<std::pair<std::string, std::string>, parallel::Traffic> traffic;
};

// Of each space: live, peak, and what a step copied into and from it.
inline std::vector<int64_t> numbers_of(const parallel::OffloadBytes& bytes) {
  return {bytes.host.live, bytes.host.peak, bytes.host.written, bytes.host.read,
          bytes.file.live, bytes.file.peak, bytes.file.written, bytes.file.read};
}

// The step itself, on the host.
inline Counted count_step(const StepToPlan& what, parallel::Communicator& ranks) {
  const Mesh& mesh = ranks.mesh();
  const auto layout = SequenceLayout::over(mesh, what.row_length);
  Counted out;
  ops::MemoryCount memory;
  models::Model model = what.build();
  models::parallelize(model, *what.registry, mesh, what.parallel,
                      what.train.sharded_row_length(what.row_length));
  TrainingStep step(model, what.train, at::kCPU, {&ranks, what.parallel, layout});
  out.resident = memory.live();
  ranks.clear_traffic();
  std::vector<data::Batch> batches;
  for (const parallel::Interval& rows : micro_batches_of(what.train, mesh, 0)) {
    batches.push_back(what.rows(layout, rows.begin, rows.size()));
  }
  const parallel::OffloadBytes before = step.offloaded();
  step.run(batches, 0);
  out.peak = memory.peak();
  out.offloaded = step.offloaded();
  out.offloaded.host.written -= before.host.written;
  out.offloaded.host.read -= before.host.read;
  out.offloaded.file.written -= before.file.written;
  out.offloaded.file.read -= before.file.read;
  out.at_peak = memory.at_peak();
  out.traffic = ranks.traffic();
  return out;
}

inline const RankPlan& plan_of(const std::vector<RankPlan>& plans, int64_t rank) {
  for (const RankPlan& plan : plans) {
    if (std::find(plan.ranks.begin(), plan.ranks.end(), rank) != plan.ranks.end()) return plan;
  }
  throw Error("no plan of rank " + std::to_string(rank));
}

inline std::string by_use(const ops::BytesByUse& bytes) {
  std::string text;
  for (size_t u = 0; u < ops::kMemoryUses; ++u) {
    if (bytes[u] > 0) text += fmt::format("{} {}; ", ops::name_of(static_cast<ops::MemoryUse>(u)), bytes[u]);
  }
  return text;
}

inline void report(const PlanCase& c, const RankPlan& plan, const Counted& real) {
  const char* file = std::getenv("AXIAL_PLAN_TABLE");
  if (file == nullptr) return;
  const int64_t activations = plan.at_peak[static_cast<size_t>(ops::MemoryUse::kActivations)] +
                              plan.at_peak[static_cast<size_t>(ops::MemoryUse::kLogits)];
  std::ofstream(file, std::ios::app) << fmt::format(
      "| {} | {} | {} | {:.2f} % | {:.0f} % |\n", name_of(c), plan.peak_bytes, real.peak,
      100.0 * static_cast<double>(plan.peak_bytes - real.peak) / static_cast<double>(real.peak),
      100.0 * static_cast<double>(activations) / static_cast<double>(plan.peak_bytes));
}

inline void check_plan(World& world, const PlanCase& c) {
  const models::ModelRegistry registry = models::all_models();
  const StepToPlan what = step_of(c, world.size(), registry);
  const auto ranks = world.make_communicator(parallel::make_mesh(c.mesh, world.size(), world.rank()));
  const Counted real = count_step(what, *ranks);
  const std::vector<RankPlan> plans = plan_step(what);
  const RankPlan& plan = plan_of(plans, world.rank());
  const double off = static_cast<double>(plan.peak_bytes - real.peak) / static_cast<double>(real.peak);
  require(std::abs(off) <= 0.01,
          fmt::format("{}: planned peak {}, counted {}: {:.2f} % off; planned {}counted {}", name_of(c),
                      plan.peak_bytes, real.peak, 100 * off, by_use(plan.at_peak), by_use(real.at_peak)));
  require(plan.resident_bytes == real.resident, name_of(c) + ": other bytes before the step");
  require(
      numbers_of(plan.offloaded) == numbers_of(real.offloaded),
      fmt::format("{}: planned outside of the device {}, counted {}", name_of(c),
                  fmt::join(numbers_of(plan.offloaded), " "), fmt::join(numbers_of(real.offloaded), " ")));
  for (const auto& [key, traffic] : real.traffic) {
    const auto found = plan.traffic.find(key);
    require(found != plan.traffic.end() && found->second == traffic,
            fmt::format("{}: {} over '{}': planned {} calls of {} bytes, counted {} of {}", name_of(c),
                        key.second, key.first, found == plan.traffic.end() ? 0 : found->second.calls,
                        found == plan.traffic.end() ? 0 : found->second.bytes, traffic.calls, traffic.bytes));
  }
  require(plan.traffic.size() == real.traffic.size(), name_of(c) + ": other calls");
  if (world.rank() == 0) report(c, plan, real);
}

}  // namespace axial::train::testing
