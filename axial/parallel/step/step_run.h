// SPDX-License-Identifier: Apache-2.0
// One pass through a plan's actions for given micro-batches: what StepRunner::train and ::infer start.
// State of a micro-batch: tensors between blocks, graphs of blocks, gradients of tensors between blocks;
// each is dropped at the place that the schedule names.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <set>
#include <vector>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/block/kept_results.h"
#include "axial/parallel/offload/offload_store.h"
#include "axial/parallel/pipeline/link.h"
#include "axial/parallel/replicas/replicas.h"
#include "axial/parallel/step/runner.h"
#include "axial/parallel/step/schedule.h"
#include "axial/parallel/step/tiles.h"

namespace axial::parallel {

/// What a run works on; all of it outlives the run.
struct RunSetup {
  const std::vector<Block>& blocks;
  const Stream& stream;
  ParameterTable& parameters;
  Communicator& communicator;
  Replicas& replicas;
  const ActionTrace& trace;
  const Stages& stages;
  const StepPlan& plan;
  StepContext context;
  double loss_gradient = 0;
  std::set<int64_t> wanted;         ///< versions to keep for the caller
  OffloadStore* offload = nullptr;  ///< for checkpoints, where the plan moves some
};

/// Errors as StepRunner::train states them.
class StepRun {
 public:
  StepRun(RunSetup setup, const std::vector<NamedTensors>& batches, PlanUse use);

  void run();

  /// Where the parameters are.
  at::Device device() const;
  /// The wanted versions, by micro-batch; of a pipeline those of this rank's stages.
  std::vector<std::map<int64_t, at::Tensor>>& kept() { return kept_; }

 private:
  // The cut graph of one block: its inputs as leaves (undefined: no gradient) and its outputs.
  struct BlockGraph {
    std::vector<at::Tensor> leaves;
    std::vector<at::Tensor> outputs;
    // Where the token part runs in tiles: what it reads. The outputs are then those of Block::forward.
    NamedTensors reads;
    bool tiled = false;
  };

  // This rank's part of a version, from cut to recompute.
  struct CutValue {
    at::Tensor part;  // [n] of the elements in the order of memory; undefined: offloaded or being joined
    Offloaded away;
    Pending whole;
    std::vector<int64_t> sizes, strides;
  };

  struct MicroBatch {
    std::vector<at::Tensor> values;      // per version, detached
    std::vector<at::Tensor> grads;       // per version
    std::vector<BlockGraph> graphs;      // per block
    std::map<size_t, KeptResults> kept;  // by block, from forward to recompute
    std::map<int64_t, Offloaded> away;   // by version, from offload to recompute
    std::map<int64_t, CutValue> cut;     // likewise
  };

  static ops::MemoryUse use_of(const Block& block);
  static const at::Tensor& output_of(const Block& block, const NamedTensors& outputs,
                                     const std::string& name);
  void check_batch(size_t m) const;
  void find_reduces();
  std::vector<Parameter*> parameters_of(const BlockRange& range) const;
  void execute(const Action& action, size_t index);
  NamedTensors inputs_of(size_t m, size_t b, bool with_graph);
  NamedTensors call(const Block& block, const BlockFunction& function, const NamedTensors& inputs,
                    KeptResults* kept) const;
  KeptResults* kept_of(size_t m, size_t b, const Action& action);
  void forward(size_t m, size_t b, size_t index, int64_t place);
  void keep_values(size_t m, size_t b, const NamedTensors& outputs, bool again);
  void check_leaves(size_t b, const std::vector<at::Tensor>& outputs, std::vector<at::Tensor> declared) const;
  at::Tensor take_gradient(size_t m, int64_t version);
  void add_loss_gradient(at::Tensor& gradient, int64_t version, const at::Tensor& output) const;
  void backward(size_t m, size_t b);
  bool is_tiled(const Block& block, const NamedTensors& tensors) const;
  void forward_tiles(size_t m, size_t b, size_t index, int64_t place, NamedTensors tensors);
  NamedTensors run_tiles(const Block& block, const NamedTensors& reads) const;
  std::vector<at::Tensor> backward_tiles(size_t m, size_t b, BlockGraph& graph);
  void backward_tile(size_t m, size_t b, const Tiles& tiles, int64_t i, const NamedTensors& reads,
                     const std::vector<at::Tensor>& output_grads, NamedTensors& grads);
  void reduce(size_t index, const BlockRange& range);
  void transfer(const Action& action, const BlockRange& range);
  void drop(size_t m, size_t index, int64_t place);
  void move_checkpoints(const Action& action, size_t index);
  void cut_checkpoints(const Action& action, size_t index);
  CutValue cut(const at::Tensor& value) const;
  void bring_back(size_t m, const BlockRange& range);

  RunSetup s_;
  const std::vector<NamedTensors>& batches_;
  Schedule schedule_;
  StageLink link_;
  std::vector<MicroBatch> states_;
  std::vector<std::map<int64_t, at::Tensor>> kept_;
  std::map<Parameter*, std::set<size_t>> reduced_at_;  // actions that reduce it
};

}  // namespace axial::parallel
