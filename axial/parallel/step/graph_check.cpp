// SPDX-License-Identifier: Apache-2.0
// Depth-first over grad_fn edges down to the AccumulateGrad nodes.
#include "axial/parallel/step/graph_check.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <unordered_set>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

[[noreturn]] void report(const std::string& block, const at::Tensor& leaf, const ParameterTable& parameters) {
  for (const auto& row : parameters.rows()) {
    if (!row->value.is_same(leaf)) continue;
    fail("runner", "block '{}' uses parameter '{}' without declaring it; its gradient would be lost", block,
         row->spec.name);
  }
  fail("runner",
       "block '{}' uses a tensor of shape [{}] with gradient that is neither its input nor its parameter; "
       "its gradient would be lost",
       block, fmt::join(leaf.sizes(), ", "));
}

}  // namespace

void check_graph_leaves(const std::string& block, const std::vector<at::Tensor>& outputs,
                        const std::vector<at::Tensor>& declared, const ParameterTable& parameters) {
  std::unordered_set<const void*> known;
  for (const at::Tensor& tensor : declared) {
    if (tensor.defined()) known.insert(tensor.unsafeGetTensorImpl());
  }
  std::unordered_set<const torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> pending;
  for (const at::Tensor& output : outputs) {
    if (output.defined() && output.grad_fn()) pending.push_back(output.grad_fn().get());
  }
  while (!pending.empty()) {
    torch::autograd::Node* node = pending.back();
    pending.pop_back();
    if (!seen.insert(node).second) continue;
    if (const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(node)) {
      if (known.count(leaf->variable.unsafeGetTensorImpl()) == 0) report(block, leaf->variable, parameters);
    }
    for (const torch::autograd::Edge& edge : node->next_edges()) {
      if (edge.is_valid()) pending.push_back(edge.function.get());
    }
  }
}

}  // namespace axial::parallel
