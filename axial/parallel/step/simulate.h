// SPDX-License-Identifier: Apache-2.0
// The lists of all ranks of a pipeline run against each other without tensors: finds what would wait for
// ever, and says how long ranks idle and how much they hold. Called by the trainer before a first step.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "axial/parallel/step/action.h"

namespace axial::parallel {

/// What actions cost, in any units; none: nothing.
struct PlanCosts {
  /// Of a forward, recompute or backward of these blocks.
  std::function<double(ActionKind kind, const BlockRange& blocks)> time;
  /// Held for a micro-batch with its graph, from forward or recompute to backward.
  std::function<int64_t(const BlockRange& blocks)> graph_bytes;
  /// Held between the forward and the recompute of a group, while it is not offloaded.
  std::function<int64_t(const BlockRange& blocks)> border_bytes;
};

/// How a pipeline runs.
struct PipelineRun {
  double time = 0;                  ///< until the last rank is done; sends take none
  std::vector<double> busy;         ///< per rank
  std::vector<int64_t> peak_bytes;  ///< per rank, most that is held at once

  /// Share of the ranks' time that they wait.
  double bubble_fraction() const;
};

/// Run the plans of all ranks. Throws ValueError with the action at which each rank stands when none can go
/// on, and naming border and micro-batches when messages come in another order than they are taken, or are
/// not taken at all.
PipelineRun simulate_pipeline(const std::vector<StepPlan>& plans, const PlanCosts& costs = {});

}  // namespace axial::parallel
