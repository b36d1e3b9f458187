// SPDX-License-Identifier: Apache-2.0
// One whole training step: forward, backward, loss scale, clipping, schedule, optimizer. The trainer calls
// it in a loop; on a Meta device the same code runs without data, which is what a plan counts.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "axial/data/common/batch_source.h"
#include "axial/models/common/registry.h"
#include "axial/parallel/mesh/mesh_options.h"
#include "axial/parallel/offload/offload_store.h"
#include "axial/parallel/step/runner.h"
#include "axial/train/trainer/options.h"

namespace axial::train {

/// What a step did.
struct StepOutcome {
  enum class Kind {
    kApplied,    ///< parameters were updated
    kSkipped,    ///< fp16 gradients overflowed: parameters are untouched, the scale was lowered
    kNotFinite,  ///< the loss or a gradient is not finite for another reason: parameters are untouched
  };
  Kind kind = Kind::kApplied;
  double loss = 0;       ///< mean over the labels of the whole batch
  double grad_norm = 0;  ///< before clipping
  double learning_rate = 0;
  double loss_scale = 1;  ///< that this step used
  double weight = 0;      ///< labels that counted
  int64_t tokens = 0;     ///< that are not padding
};

/// What ranks share the work of a step. The default: one rank.
struct TrainingRanks {
  parallel::Communicator* communicator = nullptr;  ///< outlives the step
  parallel::MeshOptions options;
  std::optional<parallel::SequenceLayout> sequence;  ///< what each holds of a row; none: all of it
};

/// The rows of a step that begins with row `first`, as this rank takes them: parted over the ranks of `data`,
/// then over micro-batches. Of these all ranks have equal numbers, because they may meet in each (ZeRO); one
/// may be empty here.
std::vector<parallel::Interval> micro_batches_of(const TrainOptions& options, const parallel::Mesh& mesh,
                                                 int64_t first);

/// Owns the optimizer state of a model (whose parameters it places and materialises on `device`).
class TrainingStep {
 public:
  /// The model must outlive it and have a head "loss". Throws IoError where no file can be made in
  /// options.offload_folder.
  TrainingStep(models::Model& model, const TrainOptions& options, at::Device device,
               const TrainingRanks& ranks = {});

  /// Step number `step` (from 0) over this rank's micro-batches of any sizes, none included, but as many on
  /// every rank: the gradient is that of the mean loss over all labels of all ranks, and so is the outcome.
  /// On Meta batches become Meta, and host values are nominal (loss 1, all finite). Throws ValueError when no
  /// label counts, and when the loss scale cannot be lowered any more.
  StepOutcome run(const std::vector<data::Batch>& micro_batches, int64_t step);

  /// Ends in the head "loss"; evaluate() uses it too.
  parallel::StepRunner& runner() { return runner_; }

  /// Scalars of optimizer and loss scaler; tensors are companions in the table.
  nlohmann::json optimizer_state() const;
  /// Bytes outside of the device, of the states and of checkpoints of all steps so far.
  parallel::OffloadBytes offloaded() const;
  nlohmann::json loss_scaler_state() const;  ///< null unless fp16
  void restore(const nlohmann::json& optimizer, const nlohmann::json& loss_scaler);

 private:
  const parallel::StepPlan& plan_for(int64_t num_micro_batches);
  std::vector<parallel::NamedTensors> tensors_of(const std::vector<data::Batch>& micro_batches) const;
  double sum_over(const parallel::Axes& axes, double value, double nominal);
  void update(StepOutcome& outcome, double loss_sum, int64_t step);

  models::Model& model_;
  TrainOptions options_;
  at::Device device_;
  TrainingRanks ranks_;
  std::shared_ptr<parallel::OffloadStore> states_, checkpoints_, values_;  // null: on the device
  parallel::StepRunner runner_;
  std::map<int64_t, parallel::StepPlan> plans_;
  optim::AdamW optimizer_;
  optim::LossScaler scaler_;
};

}  // namespace axial::train
