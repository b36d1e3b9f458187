// SPDX-License-Identifier: Apache-2.0
// What a training step takes on every rank of a mesh, found by running it without data: the trainer's own
// step on Meta tensors, through a communicator without peers, its bytes counted. Called by `axial plan`.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "axial/models/common/registry.h"
#include "axial/ops/common/flop_count.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/offload/offload_store.h"
#include "axial/train/infer/windows.h"
#include "axial/train/trainer/training_step.h"

namespace axial::train {

/// What a plan runs.
enum class PlannedWork {
  kTraining,  ///< a step
  kEmbed,     ///< one batch of windows on every rank of data, as `axial embed` runs it
  kScore,     ///< likewise `axial score`
};

/// A run without its data.
struct StepToPlan {
  std::function<models::Model()> build;  ///< a model, declared and not yet cut
  const models::ModelRegistry* registry = nullptr;
  TrainOptions train;
  parallel::MeshOptions parallel;
  int64_t world_size = 1;
  int64_t row_length = 0;
  PlannedWork work = PlannedWork::kTraining;
  WindowOptions windows;  ///< of kEmbed and kScore
  /// Rows [first, first + count) as a rank holds them, moved to Meta; none: full rows of one record each.
  std::function<data::Batch(const parallel::SequenceLayout& layout, int64_t first, int64_t count)> rows;
  /// Told after every action of a step (of a pipeline's first rank), and how many there are in all, about.
  std::function<void(int64_t done, int64_t total)> on_action;
};

/// Tensors that one op of one block allocated and that lived at the peak.
struct AliveAtPeak {
  std::string block;  ///< "": outside of blocks
  std::string op;
  ops::MemoryUse use = ops::MemoryUse::kOther;
  int64_t count = 0;
  int64_t bytes = 0;
};

/// What ranks of one role do.
struct RankPlan {
  std::vector<int64_t> ranks;  ///< that hold and do the same, ascending
  int64_t parameters = 0;      ///< elements of values that each computes with, gathered ones included
  int64_t peak_bytes = 0;      ///< of tensors, from the model's making to the end of the step
  ops::BytesByUse at_peak{};
  int64_t resident_bytes = 0;  ///< before the step: values, moments, copies
  /// Outside of the device, in memory of the host and in files; what was copied by the step alone.
  parallel::OffloadBytes offloaded;
  /// By ("data+ring", "all_reduce"), of the step.
  std::map<std::pair<std::string, std::string>, parallel::Traffic> traffic;
  /// Operations of the step on the first of these ranks; others of a ring that rows do not divide evenly, or
  /// with a window, differ a little. `recomputed` is a part of them.
  ops::Flops flops, recomputed;
  int64_t allocated_bytes = 0;           ///< of all tensors that the step makes, where events are wanted
  std::vector<ops::MemoryEvent> events;  ///< of making and step, in order, where wanted
  std::vector<AliveAtPeak> alive;        ///< largest first, where events are wanted
};

/// One pass per role: ranks whose rows, positions, stage and parts of every parameter have equal sizes. The
/// stages of a pipeline run together, a thread each. Throws ValueError for a mesh that does not fit, and what
/// the step throws.
std::vector<RankPlan> plan_step(const StepToPlan& what, bool with_events = false);

/// Tokens of the rows that a rank of data runs together: of training one row's, else those of a batch of as
/// many whole windows as it takes.
int64_t tokens_of_rows(const StepToPlan& what, const models::Model& model);
/// Tokens of a window of kEmbed and kScore.
int64_t window_of(const StepToPlan& what, const models::Model& model);

}  // namespace axial::train
