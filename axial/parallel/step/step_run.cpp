// SPDX-License-Identifier: Apache-2.0
// The loop over actions, and blocks forward; called by runner.cpp.
#include "axial/parallel/step/step_run.h"

#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/ops/common/flop_count.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/step/graph_check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "runner";

bool has_sharded_values(const ParameterTable& parameters) {
  return std::any_of(parameters.rows().begin(), parameters.rows().end(),
                     [](const auto& row) { return row->zero_stage == 3; });
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

StepRun::StepRun(RunSetup setup, const std::vector<NamedTensors>& batches, PlanUse use)
    : s_(std::move(setup)),
      batches_(batches),
      schedule_(schedule_plan(s_.stream, s_.plan, static_cast<int64_t>(batches.size()), use,
                              has_sharded_values(s_.parameters), s_.stages.ranks > 1)),
      link_(s_.communicator),
      kept_(batches.size()) {
  const size_t versions = s_.stream.values.size();
  for (size_t m = 0; m < batches.size(); ++m) {
    states_.push_back({std::vector<at::Tensor>(versions),
                       std::vector<at::Tensor>(versions),
                       std::vector<BlockGraph>(s_.blocks.size()),
                       {},
                       {},
                       {}});
    check_batch(m);
  }
  find_reduces();
  if (s_.stages.ranks > 1) s_.communicator.connect(border_lines(s_.stages), {kPipeAxis}, device());
}

// A parameter of several groups is summed once per micro-batch: by the last of their reduces.
void StepRun::find_reduces() {
  std::map<Parameter*, std::map<int64_t, size_t>> last;  // per micro-batch
  for (size_t i = 0; i < s_.plan.actions.size(); ++i) {
    const Action& action = s_.plan.actions[i];
    if (action.kind != ActionKind::kReduce) continue;
    for (Parameter* p : parameters_of(s_.plan.groups[static_cast<size_t>(action.group)])) {
      last[p][action.micro_batch] = i;
    }
  }
  for (const auto& [parameter, actions] : last) {
    for (const auto& [micro_batch, index] : actions) reduced_at_[parameter].insert(index);
  }
}

void StepRun::run() {
  const at::AutoGradMode no_grad(false);
  for (size_t i = 0; i < s_.plan.actions.size(); ++i) {
    const Action& action = s_.plan.actions[i];
    const double begin = s_.trace ? now_s() : 0;
    execute(action, i);
    if (s_.trace) s_.trace(s_.plan, action, begin, now_s());
  }
  link_.finish();
  s_.replicas.wait_reduced();
}

void StepRun::check_batch(size_t m) const {
  for (size_t v = 0; v < s_.stream.values.size(); ++v) {
    const StreamValue& value = s_.stream.values[v];
    if (value.producer != kFromBatch) break;
    // A head that needs no labels runs without them.
    if (!value.is_read && !s_.wanted.contains(static_cast<int64_t>(v))) continue;
    const auto found = batches_[m].find(value.name);
    AXIAL_CHECK(found != batches_[m].end() && found->second.defined(), kOp,
                "micro-batch {} lacks the tensor '{}'", m, value.name);
  }
}

std::vector<Parameter*> StepRun::parameters_of(const BlockRange& range) const {
  std::vector<Parameter*> out;
  for (int64_t b = range.begin; b < range.end; ++b) {
    for (const std::string& name : s_.blocks[static_cast<size_t>(b)].parameters) {
      Parameter* parameter = &s_.parameters.at(name);
      AXIAL_CHECK(parameter->value.defined(), kOp, "parameter '{}' of block '{}' is not materialized", name,
                  s_.blocks[static_cast<size_t>(b)].name);
      if (std::find(out.begin(), out.end(), parameter) == out.end()) out.push_back(parameter);
    }
  }
  return out;
}

void StepRun::execute(const Action& action, size_t index) {
  const auto m = static_cast<size_t>(action.micro_batch);
  if (action.kind == ActionKind::kFree) {
    states_[m] = {};
    return;
  }
  if (action.kind == ActionKind::kTie) return s_.replicas.tie();
  const BlockRange range = s_.plan.groups[static_cast<size_t>(action.group)];
  if (action.kind == ActionKind::kReduce) return reduce(index, range);
  if (action.kind == ActionKind::kOffload || action.kind == ActionKind::kFetch)
    return move_checkpoints(action, index);
  if (action.kind == ActionKind::kCut || action.kind == ActionKind::kJoin)
    return cut_checkpoints(action, index);
  if (action.kind == ActionKind::kFetchParts) return s_.replicas.fetch(parameters_of(range));
  if (action.kind == ActionKind::kGather) return s_.replicas.gather(parameters_of(range));
  if (action.kind == ActionKind::kRelease) return s_.replicas.release(parameters_of(range));
  if (action.kind == ActionKind::kSend || action.kind == ActionKind::kRecv ||
      action.kind == ActionKind::kSendGrad || action.kind == ActionKind::kRecvGrad) {
    transfer(action, range);
    return drop(m, index, 0);
  }
  s_.replicas.wait(parameters_of(range));
  if (action.kind == ActionKind::kBackward) {
    for (int64_t b = range.end - 1; b >= range.begin; --b) backward(m, static_cast<size_t>(b));
    return;
  }
  bring_back(m, range);
  for (int64_t b = range.begin; b < range.end; ++b) {
    forward(m, static_cast<size_t>(b), index, b - range.begin);
    drop(m, index, b - range.begin);
  }
}

// Tensors without a reader behind this place of the action.
void StepRun::drop(size_t m, size_t index, int64_t place) {
  for (const int64_t v : schedule_.drops[index][static_cast<size_t>(place)]) {
    states_[m].values[static_cast<size_t>(v)].reset();
  }
}

at::Device StepRun::device() const {
  return s_.parameters.rows().empty() ? at::kCPU : s_.parameters.rows().front()->value.device();
}

NamedTensors StepRun::inputs_of(size_t m, size_t b, bool with_graph) {
  NamedTensors inputs;
  std::vector<at::Tensor>& leaves = states_[m].graphs[b].leaves;
  leaves.clear();
  for (const int64_t v : s_.stream.reads[b]) {
    const StreamValue& value = s_.stream.values[static_cast<size_t>(v)];
    at::Tensor tensor = value.producer == kFromBatch ? batches_[m].at(value.name).detach()
                                                     : states_[m].values[static_cast<size_t>(v)].detach();
    const bool cut =
        with_graph && value.needs_gradient && torch::autograd::isDifferentiableType(tensor.scalar_type());
    if (cut) tensor.set_requires_grad(true);
    if (with_graph) leaves.push_back(cut ? tensor : at::Tensor());
    inputs.emplace(value.name, std::move(tensor));
  }
  return inputs;
}

ops::MemoryUse StepRun::use_of(const Block& block) {
  const bool is_head =
      std::find(block.outputs.begin(), block.outputs.end(), "loss_sum") != block.outputs.end();
  return is_head ? ops::MemoryUse::kLogits : ops::MemoryUse::kActivations;
}

// Of what a function of the block returned.
const at::Tensor& StepRun::output_of(const Block& block, const NamedTensors& outputs,
                                     const std::string& name) {
  const auto found = outputs.find(name);
  AXIAL_CHECK(found != outputs.end() && found->second.defined(), kOp,
              "block '{}' did not return its output '{}'", block.name, name);
  return found->second;
}

// Call a function of the block; an input that it changed in place would be wrong for every other reader.
NamedTensors StepRun::call(const Block& block, const BlockFunction& function, const NamedTensors& inputs,
                           KeptResults* kept) const {
  std::vector<std::pair<const NamedTensors::value_type*, int64_t>> versions;
  for (const auto& input : inputs) {
    if (!input.second.is_inference()) versions.emplace_back(&input, input.second._version());
  }
  StepContext context = s_.context;
  context.kept = kept;
  context.head_groups = s_.plan.head_groups;
  const ops::MemoryScope scope(use_of(block), block.name);
  NamedTensors outputs = function(inputs, context);
  for (const auto& [input, version] : versions) {
    AXIAL_CHECK(input->second._version() == version, kOp, "block '{}' changes its input '{}' in place",
                block.name, input->first);
  }
  return outputs;
}

// Where the block leaves or finds results that are kept for its recompute; null: nowhere.
KeptResults* StepRun::kept_of(size_t m, size_t b, const Action& action) {
  auto& kept = states_[m].kept;
  if (action.kind == ActionKind::kForward) return action.keep_attention ? &kept[b] : nullptr;
  const auto found = kept.find(b);
  if (found == kept.end()) return nullptr;
  found->second.rewind();
  return &found->second;
}

void StepRun::forward(size_t m, size_t b, size_t index, int64_t place) {
  const Action& action = s_.plan.actions[index];
  const bool again = action.kind == ActionKind::kRecompute, with_graph = again || action.keep_graph;
  const Block& block = s_.blocks[b];
  const at::AutoGradMode grad_mode(with_graph);
  const ops::RecomputeScope recomputes(again);
  NamedTensors tensors = inputs_of(m, b, with_graph), outputs;
  if (block.forward) outputs = call(block, block.forward, tensors, kept_of(m, b, action));
  if (again) states_[m].kept.erase(b);  // the graph has them now
  if (block.tokens) {
    for (const std::string& name : block.between) tensors.emplace(name, output_of(block, outputs, name));
    outputs.clear();
    if (is_tiled(block, tensors)) return forward_tiles(m, b, index, place, std::move(tensors));
    outputs = call(block, block.tokens->forward, tensors, nullptr);
  }
  tensors.clear();
  keep_values(m, b, outputs, again);
  if (!with_graph) return;
  BlockGraph& graph = states_[m].graphs[b];
  for (const std::string& name : block.outputs) {
    const at::Tensor& output = outputs.at(name);
    graph.outputs.push_back(output.requires_grad() ? output : at::Tensor());
  }
  if (m == 0) check_leaves(b, graph.outputs, graph.leaves);
}

// Outputs of a block become values of the stream.
void StepRun::keep_values(size_t m, size_t b, const NamedTensors& outputs, bool again) {
  const Block& block = s_.blocks[b];
  for (size_t k = 0; k < block.outputs.size(); ++k) {
    const int64_t v = s_.stream.writes[b][k];
    states_[m].values[static_cast<size_t>(v)] = output_of(block, outputs, block.outputs[k]).detach();
    if (!again && s_.wanted.count(v) > 0) kept_[m][v] = states_[m].values[static_cast<size_t>(v)];
  }
}

void StepRun::check_leaves(size_t b, const std::vector<at::Tensor>& outputs,
                           std::vector<at::Tensor> declared) const {
  const auto at = static_cast<int64_t>(b);
  for (const Parameter* p : parameters_of({at, at + 1})) declared.push_back(p->value);
  check_graph_leaves(s_.blocks[b].name, outputs, declared, s_.parameters);
}

}  // namespace axial::parallel
