// SPDX-License-Identifier: Apache-2.0
// A step of a decoder whose rows lie on several ranks beside the same step on one: what the tests of split
// sequences share.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "axial/models/decoder/decoder_case.h"
#include "axial/parallel/communicator/world.h"
#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/step/runner.h"

namespace axial::models::testing {

using parallel::Communicator;
using parallel::NamedTensors;
using parallel::SequenceLayout;
using parallel::World;

inline constexpr int64_t kLength = 13;

// Three records and padding; one record that goes on.
inline std::vector<parallel::PackedRow> rows(int64_t length) {
  std::vector<parallel::PackedRow> rows(2);
  for (int64_t i = 0; i < length; ++i) {
    if (i < 10) rows[0].tokens.push_back((i * 5 + 3) % 13);
    rows[1].tokens.push_back((i * i + 1) % 13);
  }
  rows[0].record_starts = {0};
  if (length > 4) rows[0].record_starts = {0, 3, 4};
  rows[1].record_starts = {0};
  rows[1].next_token = 7;
  rows[1].sample_id = 1;
  return rows;
}

/// Sums over all ranks.
struct Step {
  double loss = 0, weight = 0;
  std::map<std::string, at::Tensor> grads;
};

inline Step take_step(const nlohmann::json& settings, const NamedTensors& batch, const SequenceLayout* layout,
                      Communicator* ranks, double loss_gradient, const parallel::MemoryPolicy& policy = {}) {
  Model model = all_models().at("decoder").build(settings);
  if (ranks) parallel::partition_parameters(*model.parameters, ranks->mesh(), 0);
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  parallel::StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names, ranks);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, policy);
  parallel::StepContext context{root_key(5), true, nullptr};
  context.sequence = layout;
  const parallel::StepResult result = runner.train(plan, {batch}, context, loss_gradient);
  at::Tensor sums = at::stack({result.loss_sums[0].to(at::kDouble), result.loss_weights[0].to(at::kDouble)});
  if (ranks) sums = ranks->all_reduce(sums, ranks->mesh().batch_axes(), parallel::ReduceOp::kSum);
  Step step{sums[0].item<double>(), sums[1].item<double>(), {}};
  for (const auto& row : model.parameters->rows()) step.grads[row->spec.name] = row->grad;
  return step;
}

/// The largest relative difference of loss, weight and gradients.
inline double difference(const Step& got, const Step& expected) {
  double worst = std::max(std::abs(got.loss / expected.loss - 1), std::abs(got.weight / expected.weight - 1));
  for (const auto& [name, grad] : expected.grads) {
    const double size = grad.abs().max().item<double>();
    worst = std::max(worst, (got.grads.at(name) - grad).abs().max().item<double>() / size);
  }
  return worst;
}

/// What a wrong program makes of a rank's batch.
using Mistake = std::function<void(NamedTensors&)>;

struct Party {
  std::unique_ptr<Communicator> ranks;
  int64_t length;
  SequenceLayout layout;
  Party(World& world, int64_t ring, int64_t ulysses, int64_t row_length = kLength)
      : ranks(world.make_communicator(
            parallel::Mesh({{"data", 1}, {"pipe", 1}, {"ring", ring}, {"ulysses", ulysses}, {"tensor", 1}},
                           world.size(), world.rank()))),
        length(row_length),
        layout(SequenceLayout::over(ranks->mesh(), length)) {}

  double compare(const nlohmann::json& settings, const Mistake& mistake = {},
                 const std::function<double(const NamedTensors&)>& loss_gradient = {}) {
    const NamedTensors whole = SequenceLayout::whole(length).make_batch(rows(length), 0);
    const double weight = static_cast<double>(parallel::count_labels(rows(length)));
    NamedTensors batch = layout.make_batch(rows(length), 0);
    if (mistake) mistake(batch);
    const double seed = loss_gradient ? loss_gradient(batch) : 1 / weight;
    return difference(take_step(settings, batch, &layout, ranks.get(), seed),
                      take_step(settings, whole, nullptr, nullptr, 1 / weight));
  }
};

}  // namespace axial::models::testing
