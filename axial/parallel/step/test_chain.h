// SPDX-License-Identifier: Apache-2.0
// A small model with everything that makes cutting hard, for tests of the runner: a skip from the first
// block to all others, a weight shared by every middle block, a head tied to the embedding, and a tensor
// that needs no gradient.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/step/action.h"
#include "axial/parallel/step/runner.h"

namespace axial::parallel::test {

inline constexpr int64_t kWidth = 8;
inline constexpr int64_t kFeatures = 5;

/// e = tanh(x W), h = e; then `depth` times h = h + tanh(h S) B_i * e + scale; y = h W^T; squared error.
class Chain {
 public:
  explicit Chain(int64_t depth, at::Device device = at::kCPU, at::ScalarType dtype = at::kDouble,
                 const std::function<void(ParameterTable&)>& place = {}) {
    table.declare({"embed.weight", {kFeatures, kWidth}, Initializer::normal(0.5)});
    table.declare({"shared.weight", {kWidth, kWidth}, Initializer::normal(0.3)});
    for (int64_t i = 0; i < depth; ++i) {
      table.declare({weight_name(i), {kWidth, kWidth}, Initializer::normal(0.3)});
      table.declare({bias_name(i), {kWidth}, Initializer::normal(0.1), false});
    }
    table.alias("head.weight", "embed.weight");
    if (place) place(table);
    table.materialize(device, dtype, 3);
    blocks.push_back(embed());
    for (int64_t i = 0; i < depth; ++i) blocks.push_back(middle(i));
    blocks.push_back(head());
    blocks.push_back(loss());
  }

  static std::vector<std::string> batch_names() { return {"x", "target", "scale"}; }

  NamedTensors batch(int64_t rows, uint64_t seed, at::Device device = at::kCPU,
                     at::ScalarType dtype = at::kDouble) const {
    NamedTensors out;
    for (const char* name : {"x", "target"}) {
      at::Tensor t = at::empty({rows, kFeatures}, at::TensorOptions(dtype).device(device));
      for (int64_t i = 0; i < t.numel() && !t.is_meta(); ++i) {
        t.view({-1})[i].fill_(random_normal(root_key(seed).child(name), static_cast<uint64_t>(i)));
      }
      out[name] = t;
    }
    out["scale"] = at::full({kWidth}, 0.01, at::TensorOptions(dtype).device(device));
    return out;
  }

  /// Plain autograd over all blocks, without runner or cut: gradients per row of the table.
  std::vector<at::Tensor> reference_gradients(const std::vector<NamedTensors>& batches,
                                              double loss_gradient) {
    at::Tensor total;
    for (const NamedTensors& batch : batches) {
      NamedTensors stream = batch;
      for (const Block& block : blocks) {
        NamedTensors inputs;
        for (const std::string& name : block.inputs) inputs[name] = stream.at(name);
        for (auto& [name, tensor] : run_block(block, inputs, {})) stream[name] = tensor;
      }
      total = total.defined() ? total + stream.at("loss_sum") : stream.at("loss_sum");
    }
    std::vector<at::Tensor> values;
    for (const auto& row : table.rows()) values.push_back(row->value);
    return torch::autograd::grad({total}, values, {at::full_like(total.detach(), loss_gradient)});
  }

  /// Gradients that the runner puts into the table.
  std::vector<at::Tensor> runner_gradients(const std::vector<NamedTensors>& batches, double loss_gradient,
                                           const MemoryPolicy& policy) {
    table.clear_gradients();
    StepRunner runner(blocks, table, batch_names());
    runner.train(write_training_step(static_cast<int64_t>(blocks.size()),
                                     static_cast<int64_t>(batches.size()), policy),
                 batches, {}, loss_gradient);
    std::vector<at::Tensor> grads;
    for (const auto& row : table.rows()) grads.push_back(row->grad);
    return grads;
  }

  ParameterTable table;
  std::vector<Block> blocks;

 private:
  static std::string weight_name(int64_t i) { return "layers." + std::to_string(i) + ".weight"; }
  static std::string bias_name(int64_t i) { return "layers." + std::to_string(i) + ".bias"; }

  Block embed() {
    return {
        "embed", {"x", "scale"}, {"e", "h", "shift"}, {"embed.weight"}, [this](const auto& in, const auto&) {
          const at::Tensor e = in.at("x").matmul(table.at("embed.weight").value).tanh();
          return NamedTensors{{"e", e}, {"h", e}, {"shift", in.at("scale") * 2}};
        }};
  }
  Block middle(int64_t i) {
    return {"layers." + std::to_string(i),
            {"h", "e", "shift"},
            {"h"},
            {"shared.weight", weight_name(i), bias_name(i)},
            [this, i](const auto& in, const auto&) {
              const at::Tensor inner = in.at("h").matmul(table.at("shared.weight").value).tanh();
              const at::Tensor mixed =
                  (inner.matmul(table.at(weight_name(i)).value) + table.at(bias_name(i)).value) * in.at("e");
              return NamedTensors{{"h", in.at("h") + mixed + in.at("shift")}};
            }};
  }
  Block head() {
    return {"head", {"h"}, {"y"}, {"head.weight"}, [this](const auto& in, const auto&) {
              return NamedTensors{{"y", in.at("h").matmul(table.at("head.weight").value.t())}};
            }};
  }
  Block loss() {
    return {"loss", {"y", "target"}, {"loss_sum", "loss_weight"}, {}, [](const auto& in, const auto&) {
              const at::Tensor difference = in.at("y") - in.at("target");
              return NamedTensors{{"loss_sum", (difference * difference).sum()},
                                  {"loss_weight", at::full({}, static_cast<double>(difference.size(0)),
                                                           difference.options().requires_grad(false))}};
            }};
  }
};

}  // namespace axial::parallel::test
