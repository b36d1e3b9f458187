// SPDX-License-Identifier: Apache-2.0
// Checkpoints that leave the device and come back, and those that are cut over the ranks of tensor
// (Rajbhandari et al., 2020: partitioned activations); called by the loop of step_run.cpp.
#include <ATen/ATen.h>

#include <utility>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/placement/placement.h"
#include "axial/parallel/step/step_run.h"

namespace axial::parallel {

void StepRun::move_checkpoints(const Action& action, size_t index) {
  AXIAL_CHECK(s_.offload != nullptr, "runner", "'{}'; expected a place for it, got none",
              to_string(s_.plan, action));
  MicroBatch& state = states_[static_cast<size_t>(action.micro_batch)];
  const ops::MemoryScope scope(ops::MemoryUse::kActivations);
  for (const int64_t v : schedule_.moves[index]) {
    const auto part = state.cut.find(v);
    if (action.kind == ActionKind::kFetch) {
      (part == state.cut.end() ? state.away.at(v) : part->second.away).start_fetch();
    } else if (part != state.cut.end()) {
      part->second.away = s_.offload->put(std::exchange(part->second.part, at::Tensor()));
    } else {
      state.away[v] = s_.offload->put(std::exchange(state.values[static_cast<size_t>(v)], at::Tensor()));
    }
  }
}

// The elements that this rank keeps: dense tensors in the order of their memory, so that strides stay.
StepRun::CutValue StepRun::cut(const at::Tensor& value) const {
  const at::Tensor dense = value.is_non_overlapping_and_dense() ? value : value.contiguous();
  const Mesh& mesh = s_.communicator.mesh();
  const Sizes sizes = even_sizes(dense.numel(), mesh.degree(kTensorAxis));
  const auto place = static_cast<size_t>(mesh.coordinate(kTensorAxis));
  int64_t begin = 0;
  for (size_t r = 0; r < place; ++r) begin += sizes[r];
  CutValue out;
  out.part = dense.as_strided({dense.numel()}, {1}).narrow(0, begin, sizes[place]).clone();
  out.sizes = dense.sizes().vec();
  out.strides = dense.strides().vec();
  return out;
}

void StepRun::cut_checkpoints(const Action& action, size_t index) {
  MicroBatch& state = states_[static_cast<size_t>(action.micro_batch)];
  const ops::MemoryScope scope(ops::MemoryUse::kActivations);
  for (const int64_t v : schedule_.moves[index]) {
    if (action.kind == ActionKind::kCut) {
      state.cut[v] = cut(std::exchange(state.values[static_cast<size_t>(v)], at::Tensor()));
      continue;
    }
    CutValue& value = state.cut.at(v);
    const at::Tensor part =
        value.away.defined() ? value.away.take() : std::exchange(value.part, at::Tensor());
    value.away = {};
    const Sizes sizes =
        even_sizes(c10::multiply_integers(value.sizes), s_.communicator.mesh().degree(kTensorAxis));
    value.whole = s_.communicator.start_all_gather(part, 0, {kTensorAxis}, sizes);
  }
}

// What a group is about to read and was fetched or joined.
void StepRun::bring_back(size_t m, const BlockRange& range) {
  MicroBatch& state = states_[m];
  const ops::MemoryScope scope(ops::MemoryUse::kActivations);
  for (int64_t b = range.begin; b < range.end; ++b) {
    for (const int64_t v : s_.stream.reads[static_cast<size_t>(b)]) {
      const auto cut = state.cut.find(v);
      if (cut != state.cut.end()) {
        const at::Tensor flat = cut->second.whole.wait();
        state.values[static_cast<size_t>(v)] = flat.as_strided(cut->second.sizes, cut->second.strides);
        state.cut.erase(cut);
        continue;
      }
      const auto found = state.away.find(v);
      if (found == state.away.end()) continue;
      state.values[static_cast<size_t>(v)] = found->second.take();
      state.away.erase(found);
    }
  }
}

}  // namespace axial::parallel
