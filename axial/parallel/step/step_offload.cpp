// SPDX-License-Identifier: Apache-2.0
// Checkpoints that leave the device and come back; called by the loop of step_run.cpp.
#include <utility>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/step/step_run.h"

namespace axial::parallel {

void StepRun::move_checkpoints(const Action& action, size_t index) {
  AXIAL_CHECK(s_.offload != nullptr, "runner", "'{}'; expected a place for it, got none",
              to_string(s_.plan, action));
  MicroBatch& state = states_[static_cast<size_t>(action.micro_batch)];
  const ops::MemoryScope scope(ops::MemoryUse::kActivations);
  for (const int64_t v : schedule_.moves[index]) {
    if (action.kind == ActionKind::kFetch) {
      state.away.at(v).start_fetch();
    } else {
      state.away[v] = s_.offload->put(std::exchange(state.values[static_cast<size_t>(v)], at::Tensor()));
    }
  }
}

// What a group is about to read and was fetched.
void StepRun::bring_back(size_t m, const BlockRange& range) {
  MicroBatch& state = states_[m];
  for (int64_t b = range.begin; b < range.end; ++b) {
    for (const int64_t v : s_.stream.reads[static_cast<size_t>(b)]) {
      const auto found = state.away.find(v);
      if (found == state.away.end()) continue;
      state.values[static_cast<size_t>(v)] = found->second.take();
      state.away.erase(found);
    }
  }
}

}  // namespace axial::parallel
