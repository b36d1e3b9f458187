// SPDX-License-Identifier: Apache-2.0
// Executes a StepPlan: calls blocks, cuts the graph at their borders, runs autograd per block, adds
// gradients into the ParameterTable. Called by the trainer, the evaluator and the planner.
//
// Every block is cut, whatever the groups: gradients of a tensor or parameter that several blocks read are
// summed here, from the last block to the first, so no grouping changes a bit of any gradient. A group is
// the unit of memory: what it keeps, when it runs again, when it is freed.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/replicas/replicas.h"
#include "axial/parallel/step/action.h"
#include "axial/parallel/step/stream.h"

namespace axial::parallel {

/// What a training step returns. The blocks' last writer of "loss_sum" and "loss_weight" gives the loss.
struct StepResult {
  std::vector<at::Tensor> loss_sums;     ///< per micro-batch, [] detached; zeros where another stage has it
  std::vector<at::Tensor> loss_weights;  ///< per micro-batch, []
};

/// Called after every action with its begin and end on a steady clock, in seconds.
using ActionTrace = std::function<void(const StepPlan&, const Action&, double begin_s, double end_s)>;

/// Runner of one rank. Holds no activations between calls.
class StepRunner {
 public:
  /// Check that every input of every block is produced before it or named in `batch_names`, and that
  /// every parameter exists; throws ValueError naming block and tensor. Gradients are reduced through
  /// `communicator`; none: a world of one rank. Table and communicator must outlive the runner.
  StepRunner(std::vector<Block> blocks, ParameterTable& parameters, std::vector<std::string> batch_names,
             Communicator* communicator = nullptr);

  /// Run forward and backward. The gradient of every "loss_sum" is `loss_gradient` (loss scale divided by
  /// the weight of the whole batch), so gradients in the table are those of the mean loss times the scale.
  /// Gradients are added to those that the table already has. Batch tensors never get gradients.
  ///
  /// Throws ValueError when the plan does not fit the blocks, when a batch lacks a tensor, and for a block
  /// that leaves out a declared output, changes an input in place, or uses a parameter or other tensor with
  /// gradient that it did not declare (its gradient would be lost). After a throw the gradients in the
  /// table are incomplete: clear them.
  StepResult train(const StepPlan& plan, const std::vector<NamedTensors>& micro_batches,
                   const StepContext& context, double loss_gradient);

  /// Run forward without gradients; returns the tensors in `wanted`, last written value of each name, on
  /// every rank of a pipeline. Throws ValueError for a name that no block writes and no batch brings.
  NamedTensors infer(const NamedTensors& batch, const StepContext& context,
                     const std::vector<std::string>& wanted);

  /// After an update of the held parts: bring them into everybody's values (ZeRO 1 and 2).
  void publish() { replicas_.publish(); }

  /// Which stages of the blocks run on which ranks of `pipe`; plans are then those of this rank, and errors
  /// of the plans' writer. Without it every rank runs all blocks.
  void set_stages(Stages stages);
  const Stages& stages() const { return stages_; }
  /// Of this rank in a pipeline.
  int64_t pipe_rank() const;

  /// What this rank holds of the rows of all following batches; blocks see it as context.sequence unless the
  /// caller sets another. None: whole rows.
  void set_sequence(std::optional<SequenceLayout> sequence) { sequence_ = std::move(sequence); }

  /// Where plans with MemoryPolicy::offload_checkpoints put them. It outlives the runner.
  void set_offload(OffloadStore* store) { offload_ = store; }
  /// MemoryPolicy::tile_tokens of all following infer(), not while decoding.
  void set_inference_tiles(int64_t tile_tokens) { inference_tile_tokens_ = tile_tokens; }

  const std::vector<Block>& blocks() const { return blocks_; }
  Communicator& communicator() { return communicator_; }
  /// Report every action of the following calls; an empty function ends it.
  void set_trace(ActionTrace trace) { trace_ = std::move(trace); }

 private:
  StepContext with_sequence(StepContext context) const;

  std::vector<Block> blocks_;
  ParameterTable& parameters_;
  std::vector<std::string> batch_names_;
  Stream stream_;
  std::unique_ptr<Communicator> own_communicator_;
  Communicator& communicator_;
  Replicas replicas_;
  std::optional<SequenceLayout> sequence_;
  Stages stages_;
  OffloadStore* offload_ = nullptr;
  int64_t inference_tile_tokens_ = 0;
  ActionTrace trace_;
};

}  // namespace axial::parallel
