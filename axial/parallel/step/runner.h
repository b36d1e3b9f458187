// SPDX-License-Identifier: Apache-2.0
// Executes a StepPlan: calls blocks, cuts the graph at group borders, runs autograd per group, adds
// gradients into the ParameterTable. Called by the trainer, the evaluator and the planner.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/step/action.h"

namespace axial::parallel {

/// What a training step returns. The blocks' last writer of "loss_sum" and "loss_weight" gives the loss.
struct StepResult {
  std::vector<at::Tensor> loss_sums;     ///< per micro-batch, [] detached
  std::vector<at::Tensor> loss_weights;  ///< per micro-batch, []
};

/// Runner of one rank. Holds no activations between calls.
class StepRunner {
 public:
  /// Check that every input of every block is produced before it or named in `batch_names`, and that
  /// every parameter exists; throws ValueError naming block and tensor.
  StepRunner(std::vector<Block> blocks, ParameterTable& parameters, std::vector<std::string> batch_names);

  /// Run forward and backward. The gradient of every "loss_sum" is `loss_gradient` (loss scale divided by
  /// the weight of the whole batch), so gradients in the table are those of the mean loss times the scale.
  /// Batch tensors never get gradients. Throws ValueError when the plan does not fit the blocks.
  StepResult train(const StepPlan& plan, const std::vector<NamedTensors>& micro_batches,
                   const StepContext& context, double loss_gradient);

  /// Run forward without gradients; returns the tensors in `wanted`, last written value of each name.
  NamedTensors infer(const NamedTensors& batch, const StepContext& context,
                     const std::vector<std::string>& wanted);

  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  std::vector<Block> blocks_;
  ParameterTable& parameters_;
  std::vector<std::string> batch_names_;
};

}  // namespace axial::parallel
