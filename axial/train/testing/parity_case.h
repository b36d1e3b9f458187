// SPDX-License-Identifier: Apache-2.0
// The model and rows of the parity matrix, its runs by the trainer, and the same training by plain autograd:
// no runner, no mesh, no micro-batches, no kernel of the optimizer. For tests over ranks.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <csignal>
#include <map>
#include <string>
#include <vector>

#include "axial/core/rng/rng.h"
#include "axial/data/packing/row_source.h"
#include "axial/models/common/parallelize.h"
#include "axial/train/testing/compare_runs.h"

namespace axial::train::testing {

inline constexpr int64_t kParityLength = 29;  // odd: no number of ranks divides it

/// Rows of three records and, in some, padding; nothing is alike in two rows.
class ParityRows final : public data::RowSource {
 public:
  using RowSource::RowSource;
  int64_t num_rows() const override { return 9; }
  int64_t num_tokens() const override { return 9 * kParityLength; }
  data::SourceRow row(int64_t index) const override {
    const int64_t r = index % num_rows();
    data::SourceRow out;
    const int64_t used = kParityLength - r % 4;
    out.row.record_starts = {0, 5 + r, 18 + r % 3};
    for (int64_t i = 0; i < used; ++i) out.row.tokens.push_back((r * 31 + i * i + i) % 69);
    out.row.next_token = r % 2 == 0 ? 7 : -1;
    out.names = {"row " + std::to_string(r)};
    return out;
  }
};

/// 4 layers, 6 query and 2 key/value heads, dropout; kind "untied", or "tied": with a bias on logits, of a
/// window with global places, and ALiBi.
inline models::Model build_parity_model(const std::string& kind, const parallel::Mesh& mesh,
                                        const parallel::MeshOptions& options) {
  nlohmann::json config = {{"vocab_size", 69},  {"hidden_size", 24},       {"num_layers", 4},
                           {"num_heads", 6},    {"num_kv_heads", 2},       {"head_dim", 4},
                           {"ffn_size", 22},    {"max_positions", 32},     {"init_std", 0.3},
                           {"head_bias", true}, {"residual_dropout", 0.2}, {"embedding_dropout", 0.1}};
  if (kind == "tied")
    config.update({{"tied_embeddings", true},
                   {"position", "alibi"},
                   {"activation", "swiglu"},
                   {"attention_mask", {{"window", 6}, {"global", {0, 3}}}}});
  const models::ModelRegistry registry = models::all_models();
  models::Model model = registry.at("decoder").build(config);
  models::parallelize(model, registry, mesh, options);
  return model;
}

/// 5 rows a step in micro-batches of 2, clipped at every step.
inline TrainOptions parity_options(Precision precision, int64_t recompute, int64_t steps) {
  TrainOptions options;
  options.steps = steps;
  options.batch = 5;
  options.micro_batch = 2;
  options.precision = precision;
  options.seed = 3;
  options.threads = 1;
  options.recompute_group = recompute;
  options.validate_every = 0;
  options.checkpoint_every = 0;
  options.optimizer.learning_rate = 1e-2;
  options.schedule.kind = "constant";
  options.schedule.warmup_steps = 0;
  options.clip_norm = 0.5;  // below the norm: every step is clipped
  // Key biases have no gradient but rounding: an eps of 1e-8 would make steps of 1e-9 out of 1e-17.
  options.optimizer.eps = 1e-6;
  return options;
}

/// A run of the trainer, going on with what the folder holds, over `ranks` (null: alone); a signal ends it
/// after `stop_after`.
inline Run train_parity(const std::filesystem::path& folder, const std::string& kind,
                        const TrainOptions& options, const parallel::MeshOptions& mesh_options,
                        parallel::Communicator* ranks, int64_t stop_after = -1) {
  const parallel::Mesh mesh = ranks == nullptr ? parallel::Mesh::single() : ranks->mesh();
  const auto sequence = parallel::SequenceLayout::over(mesh, kParityLength);
  const ParityRows rows(sequence);
  const RunFolder run_folder = mesh.rank() == 0 ? RunFolder(folder) : RunFolder::of_first_rank(folder);
  Run run;
  TrainerInputs inputs;
  inputs.model = build_parity_model(kind, mesh, mesh_options);
  inputs.training = &rows;
  inputs.show_progress = false;
  inputs.ranks = {ranks, mesh_options, sequence};
  inputs.on_step = [&](int64_t step, const StepOutcome& outcome) {
    run.outcomes.push_back(outcome);
    if (mesh.rank() == 0 && step == stop_after) raise(SIGTERM);
  };
  Trainer trainer(std::move(inputs), options, run_folder);
  trainer.resume();
  run.result = trainer.run();
  return run;
}

/// What plain autograd makes of the same options, after the last step.
struct PlainRun {
  Run run;
  std::map<std::string, at::Tensor> tensors;  ///< "name", "exp_avg of name", "exp_avg_sq of name"
};

/// One graph over all rows of a step, whole blocks one after the other; then clipping and AdamW as the papers
/// write them.
inline PlainRun train_plainly(const std::string& kind, const TrainOptions& options) {
  models::Model model = build_parity_model(kind, parallel::Mesh::single(), {});
  model.parameters->materialize(at::kCPU, scalar_type_of(options.precision),
                                static_cast<uint64_t>(options.seed));
  const ParityRows rows(parallel::SequenceLayout::whole(kParityLength));
  const optim::AdamWOptions& adam = options.optimizer;
  PlainRun out;
  std::vector<at::Tensor> values, first, second;
  for (const auto& row : model.parameters->rows()) {
    values.push_back(row->value);
    first.push_back(at::zeros_like(row->value, row->value.options().requires_grad(false)));
    second.push_back(first.back().clone());
  }
  for (int64_t step = 0; step < options.steps; ++step) {
    const data::Batch batch = rows.rows(step * options.batch, options.batch);
    parallel::StepContext context;
    context.key =
        root_key(static_cast<uint64_t>(options.seed)).child("step").child(static_cast<uint64_t>(step));
    context.training = true;
    parallel::NamedTensors stream = batch.tensors;
    for (const parallel::Block& block : model.blocks_with("loss")) {
      parallel::NamedTensors inputs;
      for (const std::string& name : block.inputs) inputs[name] = stream.at(name);
      for (auto& [name, tensor] : block.forward(inputs, context)) stream[name] = tensor;
    }
    const at::Tensor loss = stream.at("loss_sum") / batch.weight;
    const std::vector<at::Tensor> grads = torch::autograd::grad({loss}, values);
    const at::NoGradGuard no_grad;
    double squares = 0;
    for (const at::Tensor& grad : grads) squares += grad.to(at::kDouble).square().sum().item<double>();
    StepOutcome outcome;
    outcome.loss = loss.item<double>();
    outcome.grad_norm = std::sqrt(squares);
    outcome.weight = batch.weight;
    outcome.tokens = batch.num_tokens;
    out.run.outcomes.push_back(outcome);
    const double clip = std::min(1.0, options.clip_norm / outcome.grad_norm);
    const auto t = static_cast<double>(step + 1);
    for (size_t i = 0; i < values.size(); ++i) {
      const at::Tensor grad = grads[i] * clip;
      const double decay = model.parameters->rows()[i]->spec.weight_decay ? adam.weight_decay : 0.0;
      first[i] = first[i] * adam.beta1 + grad * (1 - adam.beta1);
      second[i] = second[i] * adam.beta2 + grad.square() * (1 - adam.beta2);
      const at::Tensor mean = first[i] / (1 - std::pow(adam.beta1, t));
      const at::Tensor spread = (second[i] / (1 - std::pow(adam.beta2, t))).sqrt() + adam.eps;
      values[i].copy_(values[i] * (1 - adam.learning_rate * decay) - mean / spread * adam.learning_rate);
    }
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const std::string& name = model.parameters->rows()[i]->spec.name;
    out.tensors[name] = values[i].detach();
    out.tensors["exp_avg of " + name] = first[i];
    out.tensors["exp_avg_sq of " + name] = second[i];
  }
  return out;
}

/// The checkpoint of the last step against plain autograd: parts whose name begins with `only`; returns the
/// largest distance.
inline double compare_with_plain(const PlainRun& plain, const std::string& kind,
                                 const std::filesystem::path& folder, int64_t step, double tolerance,
                                 const std::string& what, const std::string& only = "") {
  const auto index = read_checkpoint_index(folder / kCheckpointsFolder / fmt::format("step_{:08}", step));
  verify_checkpoint(index, CheckpointParts::kEverything);
  models::Model model = build_parity_model(kind, parallel::Mesh::single(), {});
  model.parameters->materialize(at::kCPU, index.state.precision == "fp64" ? at::kDouble : at::kFloat, 1);
  load_parameters(index, CheckpointParts::kEverything, *model.parameters);
  double worst = 0;
  size_t compared = 0;
  const auto compare = [&](const std::string& name, const at::Tensor& got) {
    ++compared;
    if (!name.starts_with(only)) return;
    const double off = distance(got, plain.tensors.at(name));
    worst = std::max(worst, off);
    require(off <= tolerance, fmt::format("{}: {} is {} off at step {}", what, name, off, step));
  };
  for (const auto& row : model.parameters->rows()) {
    compare(row->spec.name, row->value.detach());
    for (const auto& [part, tensor] : row->companions) compare(part + " of " + row->spec.name, tensor);
  }
  require(compared == plain.tensors.size(), what + ": other tensors than plain autograd has");
  return worst;
}

}  // namespace axial::train::testing
