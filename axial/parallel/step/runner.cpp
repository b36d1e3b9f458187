// SPDX-License-Identifier: Apache-2.0
// What a step asks of its blocks and hands back; the pass itself is step_run.h.
#include "axial/parallel/step/runner.h"

#include <algorithm>
#include <set>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"
#include "axial/parallel/step/step_run.h"

namespace axial::parallel {

namespace {
constexpr const char* kOp = "runner";
}  // namespace

StepRunner::StepRunner(std::vector<Block> blocks, ParameterTable& parameters,
                       std::vector<std::string> batch_names, Communicator* communicator)
    : blocks_(std::move(blocks)),
      parameters_(parameters),
      batch_names_(std::move(batch_names)),
      stream_(build_stream(blocks_, batch_names_)),
      own_communicator_(communicator == nullptr ? std::make_unique<Communicator>(Mesh::single()) : nullptr),
      communicator_(communicator == nullptr ? *own_communicator_ : *communicator),
      replicas_(parameters_, communicator_),
      stages_(Stages::whole(static_cast<int64_t>(blocks_.size()))) {
  for (const Block& block : blocks_) {
    for (const std::string& name : block.parameters) {
      if (parameters_.contains(name)) continue;
      std::vector<std::string> known;
      for (const auto& row : parameters_.rows()) known.push_back(row->spec.name);
      fail(kOp, "block '{}' names the parameter '{}', which the table lacks{}", block.name, name,
           did_you_mean(name, known));
    }
  }
}

void StepRunner::set_stages(Stages stages) {
  AXIAL_CHECK(stages.num_blocks() == static_cast<int64_t>(blocks_.size()), kOp,
              "stages; expected {} blocks, got {}", blocks_.size(), stages.num_blocks());
  AXIAL_CHECK(stages.ranks == pipe_degree(communicator_.mesh()), kOp, "stages; expected {} ranks, got {}",
              pipe_degree(communicator_.mesh()), stages.ranks);
  AXIAL_CHECK(2 * stages.size() <= kChannels, kOp, "stages; expected at most {}, got {}", kChannels / 2,
              stages.size());
  stages_ = std::move(stages);
}

int64_t StepRunner::pipe_rank() const {
  return stages_.ranks == 1 ? 0 : communicator_.mesh().coordinate(kPipeAxis);
}

StepContext StepRunner::with_sequence(StepContext context) const {
  context.ranks = &communicator_;
  if (context.sequence == nullptr && sequence_) context.sequence = &*sequence_;
  return context;
}

StepResult StepRunner::train(const StepPlan& plan, const std::vector<NamedTensors>& micro_batches,
                             const StepContext& context, double loss_gradient) {
  const auto loss_of = [&](const char* name) {
    const auto found = stream_.last.find(name);
    AXIAL_CHECK(found != stream_.last.end() &&
                    stream_.values[static_cast<size_t>(found->second)].producer != kFromBatch,
                kOp, "training; expected a block that writes '{}', got none", name);
    return found->second;
  };
  const int64_t sum = loss_of("loss_sum");
  const int64_t weight = loss_of("loss_weight");
  StepRun run({blocks_,
               stream_,
               parameters_,
               communicator_,
               replicas_,
               trace_,
               stages_,
               plan,
               with_sequence(context),
               loss_gradient,
               {sum, weight},
               offload_},
              micro_batches, PlanUse::kTraining);
  run.run();
  StepResult result;
  const at::Tensor elsewhere =
      at::zeros({}, parameters_.rows().front()->value.options().requires_grad(false));
  const auto of = [&](const auto& kept, int64_t version) {
    const auto found = kept.find(version);
    return found == kept.end() ? elsewhere : found->second;
  };
  for (const auto& kept : run.kept()) {
    result.loss_sums.push_back(of(kept, sum));
    result.loss_weights.push_back(of(kept, weight));
  }
  return result;
}

NamedTensors StepRunner::infer(const NamedTensors& batch, const StepContext& context,
                               const std::vector<std::string>& wanted) {
  std::set<int64_t> versions;
  for (const std::string& name : wanted) {
    const auto found = stream_.last.find(name);
    if (found == stream_.last.end()) {
      std::vector<std::string> known;
      for (const auto& [other, unused] : stream_.last) known.push_back(other);
      fail(kOp, "wanted tensor '{}'; expected one of {}{}", name, fmt::join(known, ", "),
           did_you_mean(name, known));
    }
    versions.insert(found->second);
  }
  const auto stage_of = [](const auto& a, const auto& b) { return a->zero_stage < b->zero_stage; };
  const auto row = std::max_element(parameters_.rows().begin(), parameters_.rows().end(), stage_of);
  MemoryPolicy policy;
  policy.zero_stage = row == parameters_.rows().end() ? 0 : (*row)->zero_stage;
  policy.tile_tokens = inference_tile_tokens_;
  const OffloadStore* values = parameters_.value_store();
  if (values != nullptr) policy.offload_parameters = values->options().to;
  const StepPlan plan = write_inference_step(stages_, pipe_rank(), policy);
  const std::vector<NamedTensors> batches{batch};
  StepRun run({blocks_, stream_, parameters_, communicator_, replicas_, trace_, stages_, plan,
               with_sequence(context), 0, versions},
              batches, PlanUse::kInference);
  run.run();
  NamedTensors result;
  for (const int64_t v : versions) {
    const StreamValue& value = stream_.values[static_cast<size_t>(v)];
    if (value.producer == kFromBatch) {
      result[value.name] = batch.at(value.name);
      continue;
    }
    const auto& kept = run.kept().front();
    const auto own = kept.find(v);
    at::Tensor tensor = own == kept.end() ? at::Tensor() : own->second;
    if (stages_.ranks > 1)
      tensor = share_from(tensor, stages_.rank_of_block(value.producer), communicator_, run.device());
    result[value.name] = std::move(tensor);
  }
  return result;
}

}  // namespace axial::parallel
