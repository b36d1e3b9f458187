// SPDX-License-Identifier: Apache-2.0
// A training step as a list of actions. Policies write the list; the runner executes it; a planner, a
// trace or a simulator reads it. Nothing else decides when memory is held.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "axial/parallel/offload/offload_to.h"
#include "axial/parallel/pipeline/order.h"
#include "axial/parallel/pipeline/stages.h"

namespace axial::parallel {

/// What one action does, for one micro-batch and one group of consecutive blocks.
enum class ActionKind {
  kForward,     ///< run the group; keep its graph when keep_graph, else only the tensors at its border
  kRecompute,   ///< run the group again from the kept border tensors, now with a graph
  kBackward,    ///< back-propagate through the group's graph, add parameter gradients, free the graph
  kFree,        ///< drop what the micro-batch still holds
  kGather,      ///< start to fetch the values of the group's parameters (ZeRO-3)
  kRelease,     ///< free them again
  kReduce,      ///< start to sum the gradients of the group's parameters over the ranks that share them
  kSend,        ///< send what later stages read of the tensors up to the group, the last one of a stage
  kRecv,        ///< wait for what the group, the first one of a stage, and later ones read of earlier stages
  kSendGrad,    ///< send the gradients of those tensors back, from the first group of a stage
  kRecvGrad,    ///< wait for them, for the last group of a stage
  kTie,         ///< sum the gradients of parameters that several stages hold; ends a step
  kOffload,     ///< let what the group reads of others leave the device until its recompute
  kFetch,       ///< start to bring it back
  kCut,         ///< keep 1/t of what the group reads of others, which t ranks of tensor have alike
  kJoin,        ///< start to gather it, for the group's recompute
  kFetchParts,  ///< start to bring this rank's parts of the group's parameters to the device, for their
                ///< gather
};

/// One entry of a step.
struct Action {
  ActionKind kind = ActionKind::kForward;
  int64_t micro_batch = 0;
  int64_t group = 0;
  bool keep_graph = false;      ///< of kForward
  bool keep_attention = false;  ///< of kForward without graph: the recompute finds what attention gave

  friend bool operator==(const Action&, const Action&) = default;
};

/// A step of one rank: how its blocks are grouped and what happens in which order. Groups, blocks that run
/// and are cut as one, follow each other inside of a stage; between them may be stages of other ranks.
struct StepPlan {
  std::vector<BlockRange> groups;
  std::vector<Action> actions;
  int64_t sends_in_flight = 0;  ///< messages over one border that may be under way; 0: any number
  int64_t grads_in_flight = 0;  ///< likewise of gradients
  int64_t head_groups = 1;      ///< MemoryPolicy
  int64_t tile_tokens = 0;      ///< MemoryPolicy
};

/// The limit for a send or send_grad.
inline int64_t messages_in_flight(const StepPlan& plan, const Action& action) {
  return action.kind == ActionKind::kSendGrad ? plan.grads_in_flight : plan.sends_in_flight;
}

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
  /// Recomputed groups keep what attention gave, [tokens, heads, width] and row statistics of each block, so
  /// that none is computed twice.
  bool keep_attention = false;
  /// Attention takes its heads in so many groups, one after the other: what it holds beside its inputs and
  /// result is of one group. Calls and messages are so many times as many, and as much smaller.
  int64_t head_groups = 1;
  /// Token parts of blocks run over so many positions of every row at a time, again in backward, without a
  /// graph of all: what they hold beside their inputs and results is of one tile. Gradients of parameters are
  /// summed tile by tile. 0: over all at once.
  int64_t tile_tokens = 0;
  /// Where the border tensors of recomputed groups are between forward and recompute; fetched one computation
  /// ahead. On the device are those of two groups, and of the two that are on their way.
  OffloadTo offload_checkpoints = OffloadTo::kNone;
  /// Ranks of `tensor` keep a part each of those border tensors, which all of them have alike (not so where
  /// sequence regions cut them already), and gather them one computation ahead. What is offloaded too leaves
  /// in parts, and is fetched one computation before that.
  bool partition_activations = false;
  /// Where this rank's parts of parameters are (stage 3). They are fetched one group ahead of their gather:
  /// on the device are values of two groups, and the part of one on its way.
  OffloadTo offload_parameters = OffloadTo::kNone;
};

/// The part of this rank of `pipe` in a training step over `num_micro_batches`, in the order of `schedule`;
/// of one rank: per micro-batch all forwards, then all backwards in reverse, then free. A group's reduce
/// follows its last backward (with ZeRO 2 and 3 every backward), so that it overlaps with the ones before it.
/// Throws ValueError on counts below one.
StepPlan write_training_step(const Stages& stages, int64_t rank, int64_t num_micro_batches,
                             const MemoryPolicy& policy,
                             PipeSchedule schedule = PipeSchedule::kOneForwardOneBackward);
/// The same without pipeline.
StepPlan write_training_step(int64_t num_blocks, int64_t num_micro_batches, const MemoryPolicy& policy);

/// Forward only, nothing kept: one micro-batch. Of the policy stage 3, offload_parameters and tile_tokens
/// count. Throws ValueError on a count below one.
StepPlan write_inference_step(const Stages& stages, int64_t rank, const MemoryPolicy& policy = {});
StepPlan write_inference_step(int64_t num_blocks, const MemoryPolicy& policy = {});

/// One line per action, for traces and tests: "forward mb0 g1 [1,3) keep".
std::string to_string(const StepPlan& plan);
/// The line of one action of the plan.
std::string to_string(const StepPlan& plan, const Action& action);

}  // namespace axial::parallel
