// SPDX-License-Identifier: Apache-2.0
// Token parts of blocks, tile by tile; called by the loop of step_run.cpp. Forward they run without graph
// into whole outputs. Backward each tile runs again with a graph of its own, whose gradients go into slices
// of whole ones; then the graph of the block's first part is back-propagated. (Bekman et al., 2025,
// TiledMLP.)
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

#include "axial/ops/common/flop_count.h"
#include "axial/parallel/step/accumulate.h"
#include "axial/parallel/step/step_run.h"

namespace axial::parallel {

// One tile is the whole: it stays in the graph of its block. New tokens of a decoding are few.
bool StepRun::is_tiled(const Block& block, const NamedTensors& tensors) const {
  if (s_.plan.tile_tokens == 0 || s_.context.decode != nullptr) return false;
  return Tiles(block, tensors, s_.plan.tile_tokens, s_.communicator.mesh()).size() > 1;
}

// `tensors`: inputs of the block and what its first part gave.
void StepRun::forward_tiles(size_t m, size_t b, size_t index, int64_t place, NamedTensors tensors) {
  const Action& action = s_.plan.actions[index];
  const bool again = action.kind == ActionKind::kRecompute;
  const Block& block = s_.blocks[b];
  NamedTensors reads;
  for (const auto& [name, how] : block.tokens->reads) reads.emplace(name, tensors.at(name).detach());
  if (again || action.keep_graph) {
    BlockGraph& graph = states_[m].graphs[b];
    for (const std::string& name : block.between) {
      graph.outputs.push_back(tensors.at(name).requires_grad() ? tensors.at(name) : at::Tensor());
    }
    if (m == 0) check_leaves(b, graph.outputs, graph.leaves);
    graph.reads = reads;
    graph.tiled = true;
  }
  tensors.clear();
  // A recompute whose outputs nobody reads has them from its forward.
  const auto& dropped = schedule_.drops[index][static_cast<size_t>(place)];
  const auto is_dropped = [&](int64_t v) {
    return std::find(dropped.begin(), dropped.end(), v) != dropped.end();
  };
  const auto& writes = s_.stream.writes[b];
  if (again && std::all_of(writes.begin(), writes.end(), is_dropped)) return;
  keep_values(m, b, run_tiles(block, reads), again);
}

NamedTensors StepRun::run_tiles(const Block& block, const NamedTensors& reads) const {
  const at::AutoGradMode no_grad(false);
  const Tiles tiles(block, reads, s_.plan.tile_tokens, s_.communicator.mesh());
  NamedTensors whole;
  for (int64_t i = 0; i < tiles.size(); ++i) {
    const NamedTensors parts = call(block, block.tokens->forward, tiles.read(reads, i), nullptr);
    const ops::MemoryScope scope(use_of(block), block.name);
    for (const auto& [name, how] : block.tokens->writes) {
      tiles.put(whole[name], name, how, output_of(block, parts, name), i);
    }
  }
  return whole;
}

// Gradients of what the first part gave, in the order of Block::between; those of inputs and parameters are
// added here.
std::vector<at::Tensor> StepRun::backward_tiles(size_t m, size_t b, BlockGraph& graph) {
  const Block& block = s_.blocks[b];
  const ops::MemoryScope scope(use_of(block), block.name);
  const Tiles tiles(block, graph.reads, s_.plan.tile_tokens, s_.communicator.mesh());
  NamedTensors grads;  // of those that get one
  for (size_t k = 0; k < block.between.size(); ++k) {
    if (graph.outputs[k].defined() && graph.reads.contains(block.between[k])) grads[block.between[k]];
  }
  for (size_t k = 0; k < block.inputs.size(); ++k) {
    const auto read = graph.reads.find(block.inputs[k]);
    if (read != graph.reads.end() &&
        s_.stream.values[static_cast<size_t>(s_.stream.reads[b][k])].needs_gradient &&
        torch::autograd::isDifferentiableType(read->second.scalar_type())) {
      grads[read->first];
    }
  }
  std::vector<at::Tensor> output_grads;
  for (const int64_t v : s_.stream.writes[b]) output_grads.push_back(take_gradient(m, v));
  for (int64_t i = 0; i < tiles.size(); ++i) backward_tile(m, b, tiles, i, graph.reads, output_grads, grads);
  output_grads.clear();
  graph.reads.clear();
  for (size_t k = 0; k < block.inputs.size(); ++k) {
    const auto grad = grads.find(block.inputs[k]);
    if (grad == grads.end() || !grad->second.defined()) continue;
    accumulate(states_[m].grads[static_cast<size_t>(s_.stream.reads[b][k])], std::move(grad->second));
  }
  std::vector<at::Tensor> of_between;
  for (const std::string& name : block.between) of_between.push_back(std::move(grads[name]));
  return of_between;
}

void StepRun::backward_tile(size_t m, size_t b, const Tiles& tiles, int64_t i, const NamedTensors& reads,
                            const std::vector<at::Tensor>& output_grads, NamedTensors& grads) {
  const Block& block = s_.blocks[b];
  std::vector<at::Tensor> leaves, roots, root_grads;
  {
    const at::AutoGradMode with_graph(true);
    const ops::RecomputeScope recomputes(true);
    NamedTensors inputs = tiles.read(reads, i);
    for (const auto& [name, unused] : grads) leaves.push_back(inputs.at(name).set_requires_grad(true));
    const NamedTensors outputs = call(block, block.tokens->forward, inputs, nullptr);
    for (size_t k = 0; k < block.outputs.size(); ++k) {
      const at::Tensor& output = output_of(block, outputs, block.outputs[k]);
      const at::Tensor root = output.requires_grad() ? output : at::Tensor();
      at::Tensor gradient;
      if (output_grads[k].defined()) {
        gradient = tiles.slice(output_grads[k], block.tokens->writes.at(block.outputs[k]), i);
      }
      add_loss_gradient(gradient, s_.stream.writes[b][k], root);
      if (!gradient.defined() || !root.defined()) continue;
      roots.push_back(root);
      root_grads.push_back(std::move(gradient));
    }
    if (m == 0 && i == 0) check_leaves(b, roots, leaves);
  }
  std::vector<Parameter*> parameters;
  const auto at = static_cast<int64_t>(b);
  for (Parameter* p : parameters_of({at, at + 1})) {
    if (p->value.requires_grad()) parameters.push_back(p);
  }
  for (const Parameter* p : parameters) leaves.push_back(p->value);
  std::vector<at::Tensor> parts(leaves.size());
  if (!roots.empty() && !leaves.empty()) {
    parts = torch::autograd::grad(roots, leaves, root_grads, /*retain_graph=*/false, /*create_graph=*/false,
                                  /*allow_unused=*/true);
  }
  roots.clear();
  root_grads.clear();
  leaves.clear();
  for (size_t k = 0; k < parameters.size(); ++k) {
    at::Tensor& part = parts[grads.size() + k];
    if (part.defined()) accumulate_gradient(*parameters[k], std::move(part));
  }
  size_t k = 0;
  for (auto& [name, grad] : grads) {
    tiles.put(grad, name, block.tokens->reads.at(name), parts[k], i);
    parts[k++].reset();
  }
}

}  // namespace axial::parallel
