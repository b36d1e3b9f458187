// SPDX-License-Identifier: Apache-2.0
// A training step as a list of actions. Policies write the list; the runner executes it; a planner, a
// trace or a simulator reads it. Nothing else decides when memory is held.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace axial::parallel {

/// What one action does, for one micro-batch and one group of consecutive blocks.
enum class ActionKind {
  kForward,    ///< run the group; keep its graph when keep_graph, else only the tensors at its border
  kRecompute,  ///< run the group again from the kept border tensors, now with a graph
  kBackward,   ///< back-propagate through the group's graph, add parameter gradients, free the graph
  kFree,       ///< drop what the micro-batch still holds
  kGather,     ///< start to fetch the values of the group's parameters (ZeRO-3)
  kRelease,    ///< free them again
  kReduce,     ///< start to sum the gradients of the group's parameters over the ranks that share them
};

/// One entry of a step.
struct Action {
  ActionKind kind = ActionKind::kForward;
  int64_t micro_batch = 0;
  int64_t group = 0;
  bool keep_graph = false;  ///< of kForward

  friend bool operator==(const Action&, const Action&) = default;
};

/// Consecutive blocks [begin, end) that run and are cut as one.
struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;

  friend bool operator==(const BlockRange&, const BlockRange&) = default;
};

/// A step: how the blocks are grouped and what happens in which order.
struct StepPlan {
  std::vector<BlockRange> groups;
  std::vector<Action> actions;
};

/// What may be traded for memory.
struct MemoryPolicy {
  /// Blocks per recomputed group; 0 keeps every activation.
  int64_t recompute_group = 0;
  /// Leading and trailing blocks that are never recomputed (embedding, loss).
  int64_t keep_first = 1;
  int64_t keep_last = 1;
  /// Stage 2 and 3 reduce after every micro-batch; 3 gathers a group's values before each use, one group
  /// ahead, and releases them after it.
  int64_t zero_stage = 0;
};

/// The training step of `num_blocks` blocks over `num_micro_batches`: per micro-batch all forwards, then
/// all backwards in reverse, then free. A group's reduce follows its last backward (with ZeRO 2 and 3 every
/// backward), so that it overlaps with the ones before it. Throws ValueError on counts below one.
StepPlan write_training_step(int64_t num_blocks, int64_t num_micro_batches, const MemoryPolicy& policy);

/// Forward only, nothing kept: one micro-batch. Throws ValueError on a count below one.
StepPlan write_inference_step(int64_t num_blocks, int64_t zero_stage = 0);

/// One line per action, for traces and tests: "forward mb0 g1 [1,3) keep".
std::string to_string(const StepPlan& plan);
/// The line of one action of the plan.
std::string to_string(const StepPlan& plan, const Action& action);

}  // namespace axial::parallel
