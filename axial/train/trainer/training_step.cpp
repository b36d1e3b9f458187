// SPDX-License-Identifier: Apache-2.0
// The step in order: plan, forward and backward of every micro-batch, finite check, clip, update.
#include "axial/train/trainer/training_step.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <cmath>

#include "axial/core/rng/rng.h"
#include "axial/optim/clip/clip.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/host_value/host_value.h"
#include "axial/parallel/pipeline/stages.h"
#include "axial/parallel/placement/placement.h"
#include "axial/parallel/step/simulate.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "train";

std::shared_ptr<parallel::OffloadStore> make_store(parallel::OffloadTo to, const TrainOptions& options,
                                                   at::Device device) {
  if (to == parallel::OffloadTo::kNone) return nullptr;
  AXIAL_CHECK(to != parallel::OffloadTo::kFile || device.is_meta() || !options.offload_folder.empty(), kOp,
              "offload_folder; expected a folder, got \"\"");
  parallel::OffloadOptions store;
  store.to = to;
  store.device = device;
  store.folder = options.offload_folder;
  return parallel::OffloadStore::make(std::move(store));
}

void materialize(models::Model& model, const TrainOptions& options, at::Device device,
                 const TrainingRanks& ranks, std::shared_ptr<parallel::OffloadStore> states,
                 std::shared_ptr<parallel::OffloadStore> values) {
  const bool alone_too = values != nullptr;
  model.parameters->offload_companions(std::move(states));
  model.parameters->offload_values(std::move(values));
  if (ranks.communicator != nullptr || alone_too) {
    const parallel::Mesh mesh =
        ranks.communicator == nullptr ? parallel::Mesh::single() : ranks.communicator->mesh();
    parallel::partition_parameters(*model.parameters, mesh, ranks.options.zero, alone_too);
  }
  model.parameters->materialize(device, scalar_type_of(options.precision),
                                static_cast<uint64_t>(options.seed));
}

std::shared_ptr<parallel::OffloadStore> make_value_store(const TrainOptions& options, at::Device device,
                                                         const TrainingRanks& ranks) {
  AXIAL_CHECK(
      options.offload_parameters == parallel::OffloadTo::kNone || ranks.options.zero == 3, kOp,
      "offload_parameters; expected none without parallel.zero 3, where parts are gathered, got zero {}",
      ranks.options.zero);
  return make_store(options.offload_parameters, options, device);
}

// Loss sums of the ranks add up over these: of a pipeline one stage has them.
parallel::Axes loss_axes(const parallel::Mesh& mesh) {
  parallel::Axes axes = mesh.batch_axes();
  if (parallel::pipe_degree(mesh) > 1) axes.emplace_back(parallel::kPipeAxis);
  return axes;
}

}  // namespace

std::vector<parallel::Interval> micro_batches_of(const TrainOptions& options, const parallel::Mesh& mesh,
                                                 int64_t first) {
  const parallel::Sizes parts = parallel::even_sizes(options.batch, mesh.group_size({"data"}));
  const int64_t place = mesh.coordinate("data");
  const int64_t count = (parts[0] + options.micro_batch - 1) / options.micro_batch;
  for (int64_t r = 0; r < place; ++r) first += parts[static_cast<size_t>(r)];
  std::vector<parallel::Interval> out;
  for (const int64_t rows : parallel::even_sizes(parts[static_cast<size_t>(place)], count)) {
    out.push_back({first, first + rows});
    first += rows;
  }
  return out;
}

TrainingStep::TrainingStep(models::Model& model, const TrainOptions& options, at::Device device,
                           const TrainingRanks& ranks)
    : model_(model),
      options_(options),
      device_(device),
      ranks_(ranks),
      states_(make_store(options.offload_optimizer, options, device)),
      checkpoints_(make_store(options.offload_checkpoints, options, device)),
      values_(make_value_store(options, device, ranks)),
      runner_((materialize(model, options, device, ranks, states_, values_),
               model.runner_with("loss", ranks.communicator))),
      optimizer_(options.optimizer, *model.parameters),
      scaler_(options.loss_scale, options.precision == Precision::kFp16) {
  runner_.set_sequence(ranks.sequence);
  runner_.set_offload(checkpoints_.get());
  runner_.set_inference_tiles(options.tile_tokens);
}

const parallel::StepPlan& TrainingStep::plan_for(int64_t num_micro_batches) {
  const auto it = plans_.find(num_micro_batches);
  if (it != plans_.end()) return it->second;
  parallel::MemoryPolicy policy;
  policy.recompute_group = options_.recompute_group;
  policy.keep_attention = options_.keep_attention;
  policy.offload_checkpoints = options_.offload_checkpoints;
  policy.head_groups = options_.attention_head_groups;
  policy.tile_tokens = options_.tile_tokens;
  policy.partition_activations = options_.partition_activations && !ranks_.options.sequence_regions &&
                                 runner_.communicator().mesh().degree(parallel::kTensorAxis) > 1;
  policy.offload_parameters = options_.offload_parameters;
  policy.zero_stage = ranks_.communicator != nullptr || values_ != nullptr ? ranks_.options.zero : 0;
  const parallel::Stages& stages = runner_.stages();
  std::vector<parallel::StepPlan> plans;
  for (int64_t r = 0; r < stages.ranks; ++r) {
    plans.push_back(
        parallel::write_training_step(stages, r, num_micro_batches, policy, ranks_.options.pipe_schedule));
  }
  parallel::simulate_pipeline(plans);  // what would hang is refused
  return plans_[num_micro_batches] = std::move(plans[static_cast<size_t>(runner_.pipe_rank())]);
}

std::vector<parallel::NamedTensors> TrainingStep::tensors_of(
    const std::vector<data::Batch>& micro_batches) const {
  std::vector<parallel::NamedTensors> out;
  for (const data::Batch& batch : micro_batches) {
    out.push_back(batch.tensors);
    for (auto& [name, tensor] : out.back()) tensor = tensor.to(device_);
  }
  return out;
}

StepOutcome TrainingStep::run(const std::vector<data::Batch>& micro_batches, int64_t step) {
  StepOutcome outcome;
  double tokens = 0;
  for (const data::Batch& batch : micro_batches) {
    outcome.weight += batch.weight;
    tokens += static_cast<double>(batch.num_tokens);
  }
  // Ranks along other axes than data see the same rows.
  outcome.weight = sum_over({"data"}, outcome.weight, outcome.weight);
  outcome.tokens = std::llround(sum_over({"data"}, tokens, tokens));
  AXIAL_CHECK(outcome.weight > 0, kOp, "step {}: no token of the batch is predicted", step + 1);
  outcome.loss_scale = scaler_.scale();
  parallel::StepContext context;
  context.key =
      root_key(static_cast<uint64_t>(options_.seed)).child("step").child(static_cast<uint64_t>(step));
  context.training = true;
  const parallel::StepPlan& plan = plan_for(static_cast<int64_t>(micro_batches.size()));
  const parallel::StepResult result =
      runner_.train(plan, tensors_of(micro_batches), context, outcome.loss_scale / outcome.weight);
  double loss_sum = 0;
  for (size_t i = 0; i < result.loss_sums.size(); ++i) {
    loss_sum += parallel::host_value(result.loss_sums[i], micro_batches[i].weight);
  }
  loss_sum = sum_over(loss_axes(runner_.communicator().mesh()), loss_sum, loss_sum);
  update(outcome, loss_sum, step);
  model_.parameters->clear_gradients();
  return outcome;
}

// In fp64; `nominal` where a plan runs without data.
double TrainingStep::sum_over(const parallel::Axes& axes, double value, double nominal) {
  parallel::Communicator& ranks = runner_.communicator();
  if (ranks.mesh().group_size(axes) == 1) return value;
  at::Tensor sum = at::full({}, value, at::kDouble);
  if (device_.is_meta()) sum = at::empty({}, sum.options().device(device_));
  const parallel::Communicator::ControlCalls control(ranks);
  return parallel::host_value(ranks.all_reduce(sum, axes, parallel::ReduceOp::kSum), nominal);
}

void TrainingStep::update(StepOutcome& outcome, double loss_sum, int64_t step) {
  RECORD_USER_SCOPE("optimizer");
  outcome.loss = loss_sum / outcome.weight;
  outcome.grad_norm =
      optim::global_gradient_norm(*model_.parameters, &runner_.communicator(), outcome.loss_scale) /
      outcome.loss_scale;
  outcome.learning_rate =
      options_.optimizer.learning_rate * optim::schedule_factor(options_.schedule, step, options_.steps);
  const bool finite = std::isfinite(outcome.loss) && std::isfinite(outcome.grad_norm);
  if (!finite) {
    // At the smallest scale there is nothing left to try, and skipping for ever would look like training.
    const bool can_skip = scaler_.dynamic() && scaler_.scale() > options_.loss_scale.minimum;
    outcome.kind = can_skip ? StepOutcome::Kind::kSkipped : StepOutcome::Kind::kNotFinite;
    if (can_skip) scaler_.update(false);
    return;
  }
  const double clip = optim::clip_factor(outcome.grad_norm, options_.clip_norm);
  optimizer_.step(outcome.learning_rate, clip / outcome.loss_scale);
  runner_.publish();
  scaler_.update(true);
}

nlohmann::json TrainingStep::optimizer_state() const { return optimizer_.state(); }

parallel::OffloadBytes TrainingStep::offloaded() const {
  parallel::OffloadBytes all;
  // States and values are there all the time: peaks add up.
  for (const auto& store : {states_, values_, checkpoints_}) {
    if (store == nullptr) continue;
    const parallel::OffloadBytes bytes = store->bytes();
    for (const auto& [sum, part] : {std::pair(&all.host, bytes.host), std::pair(&all.file, bytes.file)}) {
      sum->live += part.live;
      sum->peak += part.peak;
      sum->written += part.written;
      sum->read += part.read;
    }
  }
  return all;
}

nlohmann::json TrainingStep::loss_scaler_state() const {
  return scaler_.dynamic() ? scaler_.state() : nlohmann::json();
}

void TrainingStep::restore(const nlohmann::json& optimizer, const nlohmann::json& loss_scaler) {
  optimizer_.load_state(optimizer);
  if (scaler_.dynamic()) scaler_.load_state(loss_scaler);
}

}  // namespace axial::train
