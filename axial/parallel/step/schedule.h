// SPDX-License-Identifier: Apache-2.0
// A plan laid over the dataflow: proof that it fits, and after which block of which action each tensor
// between blocks has had its last reader. Used by the runner before it starts.
#pragma once

#include <cstdint>
#include <vector>

#include "axial/parallel/step/action.h"
#include "axial/parallel/step/stream.h"

namespace axial::parallel {

/// What a plan is for.
enum class PlanUse { kTraining, kInference };

/// When tensors die: drops[action][block - begin of its group] = versions without a later reader.
struct Schedule {
  std::vector<std::vector<std::vector<int64_t>>> drops;
  std::vector<std::vector<int64_t>>
      moves;  ///< per action: versions that an offload, fetch, cut or join moves
};

/// Walk the plan; throws ValueError naming the action that does not fit: groups that do not cover the
/// blocks (of a pipeline's rank: that overlap), a read of what is neither there nor received, a backward
/// before its forward or before the backward of a reader here or elsewhere (which would lose a gradient), a
/// reduce before a backward, a use without gather where `gathers`, and whatever training leaves undone, a
/// stage does not pass on, a gather leaves unreleased, or an offload leaves away.
Schedule schedule_plan(const Stream& stream, const StepPlan& plan, int64_t num_micro_batches, PlanUse use,
                       bool gathers = false, bool pipeline = false);

}  // namespace axial::parallel
