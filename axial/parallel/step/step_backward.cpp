// SPDX-License-Identifier: Apache-2.0
// Blocks backward: gradients of what they read and of their parameters; called by the loop of step_run.cpp.
#include <torch/csrc/autograd/autograd.h>

#include <utility>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/step/accumulate.h"
#include "axial/parallel/step/step_run.h"

namespace axial::parallel {

namespace {
constexpr const char* kOp = "runner";
}  // namespace

// What later blocks gave as the gradient of a version.
at::Tensor StepRun::take_gradient(size_t m, int64_t version) {
  at::Tensor gradient = std::move(states_[m].grads[static_cast<size_t>(version)]);
  states_[m].grads[static_cast<size_t>(version)].reset();
  return gradient;
}

// Of the loss the seed.
void StepRun::add_loss_gradient(at::Tensor& gradient, int64_t version, const at::Tensor& output) const {
  const auto loss = s_.stream.last.find("loss_sum");
  if (loss == s_.stream.last.end() || loss->second != version) return;
  AXIAL_CHECK(output.defined(), kOp, "'loss_sum' depends on no parameter; expected one with gradient");
  AXIAL_CHECK(output.numel() == 1, kOp, "shape of 'loss_sum'; expected one element, got [{}]",
              fmt::join(output.sizes(), ", "));
  accumulate(gradient, at::full(output.sizes(), s_.loss_gradient, output.options().requires_grad(false)));
}

void StepRun::backward(size_t m, size_t b) {
  BlockGraph graph = std::move(states_[m].graphs[b]);
  states_[m].graphs[b] = {};
  std::vector<at::Tensor> gradients, roots, root_grads, leaves;
  if (graph.tiled) gradients = backward_tiles(m, b, graph);
  for (size_t k = 0; k < graph.outputs.size(); ++k) {
    if (!graph.tiled) {
      gradients.push_back(take_gradient(m, s_.stream.writes[b][k]));
      add_loss_gradient(gradients[k], s_.stream.writes[b][k], graph.outputs[k]);
    }
    if (!gradients[k].defined() || !graph.outputs[k].defined()) continue;
    roots.push_back(std::move(graph.outputs[k]));
    root_grads.push_back(std::move(gradients[k]));
  }
  graph.outputs.clear();
  std::vector<std::pair<int64_t, Parameter*>> owners;  // of leaves: a version or a parameter
  for (size_t k = 0; k < graph.leaves.size(); ++k) {
    if (!graph.leaves[k].defined()) continue;
    leaves.push_back(std::move(graph.leaves[k]));
    owners.emplace_back(s_.stream.reads[b][k], nullptr);
  }
  const auto at = static_cast<int64_t>(b);
  for (Parameter* p : parameters_of({at, at + 1})) {
    if (!p->value.requires_grad()) continue;
    leaves.push_back(p->value);
    owners.emplace_back(0, p);
  }
  if (roots.empty() || leaves.empty()) return;
  const ops::MemoryScope scope(use_of(s_.blocks[b]), s_.blocks[b].name);
  std::vector<at::Tensor> grads = torch::autograd::grad(roots, leaves, root_grads, /*retain_graph=*/false,
                                                        /*create_graph=*/false, /*allow_unused=*/true);
  roots.clear();
  root_grads.clear();
  leaves.clear();
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].defined()) continue;
    if (owners[i].second != nullptr) {
      accumulate_gradient(*owners[i].second, std::move(grads[i]));
    } else {
      accumulate(states_[m].grads[static_cast<size_t>(owners[i].first)], std::move(grads[i]));
    }
  }
}

void StepRun::reduce(size_t index, const BlockRange& range) {
  std::vector<Parameter*> summed;
  for (Parameter* p : parameters_of(range)) {
    if (reduced_at_.at(p).contains(index)) summed.push_back(p);
  }
  s_.replicas.reduce(summed);
}

}  // namespace axial::parallel
