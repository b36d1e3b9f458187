// SPDX-License-Identifier: Apache-2.0
// The training of parity_case.h by plain autograd: no runner, no mesh, no micro-batches, no kernel of the
// optimizer. What the parity matrix is held against.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "axial/core/rng/rng.h"
#include "axial/train/testing/parity_case.h"

namespace axial::train::testing {

/// What plain autograd makes of the same options, after the last step.
struct PlainRun {
  Run run;
  std::map<std::string, at::Tensor> tensors;  ///< "name", "exp_avg of name", "exp_avg_sq of name"
};

/// One graph over all rows of a step, whole blocks one after the other; then clipping and AdamW as the papers
/// write them.
inline PlainRun train_plainly(const ParityModel& of, const TrainOptions& options) {
  models::Model model = of.build();
  model.parameters->materialize(at::kCPU, scalar_type_of(options.precision),
                                static_cast<uint64_t>(options.seed));
  const ParityRows rows(parallel::SequenceLayout::whole(kParityLength), of.one_record);
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
      for (auto& [name, tensor] : run_block(block, inputs, context)) stream[name] = tensor;
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
inline double compare_with_plain(const PlainRun& plain, const ParityModel& of,
                                 const std::filesystem::path& folder, int64_t step, double tolerance,
                                 const std::string& what, const std::string& only = "") {
  const auto index = read_checkpoint_index(folder / kCheckpointsFolder / fmt::format("step_{:08}", step));
  verify_checkpoint(index, CheckpointParts::kEverything);
  models::Model model = of.build();
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
