// SPDX-License-Identifier: Apache-2.0
// A decoder cut over `tensor` beside the same decoder on one rank, for tests that run on several ranks.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <string>
#include <utility>
#include <vector>

#include "axial/models/decoder/decoder_case.h"
#include "axial/parallel/replicas/replicas.h"

namespace axial::models::testing {

/// Decoders of 6 query heads: key/value heads that ranks divide or not, vocabularies that are replicated
/// (69) and cut (1031), every kind of position, norm, residual and feed-forward, biases and dropout.
inline std::vector<DecoderCase> tensor_cases() {
  const nlohmann::json base = {{"vocab_size", 69}, {"hidden_size", 24},   {"num_layers", 2},
                               {"num_heads", 6},   {"num_kv_heads", 2},   {"head_dim", 4},
                               {"ffn_size", 22},   {"max_positions", 16}, {"init_std", 0.3}};
  const Variants variants = {
      {"rotary_gated", {{"activation", "swiglu"}, {"head_bias", true}}},
      {"alibi_tied_cut_vocabulary",
       {{"vocab_size", 1031},
        {"position", "alibi"},
        {"tied_embeddings", true},
        {"embedding_norm", true},
        {"embedding_dropout", 0.2},
        {"residual_dropout", 0.25}}},
      {"learned_cut_vocabulary_parallel",
       {{"vocab_size", 1031}, {"position", "learned"}, {"parallel_residual", true}, {"head_bias", true}}},
      {"bare_learned_tied",
       {{"position", "learned"},
        {"tied_embeddings", true},
        {"norm", "rms_norm"},
        {"activation", "geglu"},
        {"qkv_bias", false},
        {"out_bias", false},
        {"ffn_bias", false},
        {"embedding_dropout", 0.1},
        {"residual_dropout", 0.5},
        {"parallel_residual", true}}},
      {"alibi_as_many_kv_heads", {{"num_kv_heads", 6}, {"position", "alibi"}, {"activation", "geglu_tanh"}}},
      {"rotary_three_kv_heads", {{"num_kv_heads", 3}, {"vocab_size", 1031}, {"rotary", {{"fraction", 0.5}}}}},
      {"one_kv_head", {{"num_kv_heads", 1}, {"tied_embeddings", true}, {"head_bias", true}}}};
  std::vector<DecoderCase> cases;
  for (const auto& [name, variant] : variants) {
    nlohmann::json settings = base;
    settings.update(variant);
    cases.push_back({name, settings});
  }
  return cases;
}

/// The two decoders with equal parameters, fp64.
struct TensorPair {
  Model whole, cut;
  parallel::Communicator* ranks;

  TensorPair(const nlohmann::json& settings, parallel::Communicator& communicator, bool sequence_regions,
             int64_t zero_stage = 0)
      : whole(all_models().at("decoder").build(settings)),
        cut(all_models().at("decoder").build(settings)),
        ranks(&communicator) {
    all_models().at("decoder").parallelize(cut, ranks->mesh(), {.sequence_regions = sequence_regions});
    partition_parameters(*cut.parameters, ranks->mesh(), zero_stage);
    for (Model* model : {&whole, &cut}) model->parameters->materialize(at::kCPU, at::kDouble, 11);
    const at::NoGradGuard no_grad;
    int64_t salt = 0;
    for (const auto& row : whole.parameters->rows()) {
      // Biases of zeros and norms of ones hide errors.
      if (row->spec.init.kind != parallel::Initializer::Kind::kNormal) {
        row->value.add_(at::arange(row->value.numel(), at::kDouble).add_(++salt).sin_().mul_(0.3));
        parallel::Parameter& part = cut.parameters->at(row->spec.name);
        part.part().copy_(part.holding.select(row->value));
      }
    }
  }

  static parallel::StepContext context(parallel::Communicator* ranks, bool training) {
    return {root_key(5), training, nullptr, ranks};
  }
  parallel::NamedTensors run_whole(const std::string& head, const parallel::NamedTensors& batch,
                                   bool training) const {
    return run_blocks(whole.blocks_with(head), batch, context(nullptr, training));
  }
  parallel::NamedTensors run_cut(const std::string& head, const parallel::NamedTensors& batch,
                                 bool training) const {
    return run_blocks(cut.blocks_with(head), batch, context(ranks, training));
  }
};

/// "" when equal within 1e-9 of the largest expected value (fp64: reductions in another order give 1e-13).
inline std::string difference(const std::string& what, const at::Tensor& got, const at::Tensor& expected) {
  if (got.sizes() != expected.sizes()) return what + ": another shape\n";
  if (expected.numel() == 0) return "";
  const double scale = expected.abs().max().item<double>();
  const double error = (got - expected).abs().max().item<double>();
  return error <= 1e-9 * scale + 1e-15 ? ""
                                       : fmt::format("{}: off by {:.1e} of {:.1e}\n", what, error, scale);
}

/// A wrong behaviour, put in on purpose.
enum class Fault { kNone, kNormsNotSummed, kBiasOnEveryRank };

/// Tensors summed over ranks, in one call.
inline std::vector<at::Tensor> summed(parallel::Communicator& ranks, const std::vector<at::Tensor>& tensors) {
  if (tensors.empty()) return {};
  std::vector<at::Tensor> flat;
  std::vector<int64_t> sizes;
  for (const at::Tensor& x : tensors) {
    flat.push_back(x.flatten());
    sizes.push_back(x.numel());
  }
  auto sums = ranks.all_reduce(at::cat(flat), {"tensor"}, parallel::ReduceOp::kSum).split_with_sizes(sizes);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] = sums[i].view(tensors[i].sizes());
  return sums;
}

/// What differs between the gradients of the two decoders: each rank's own part, and the logical tensor put
/// together from all of them.
inline std::string compare_gradients(const TensorPair& pair, Fault fault) {
  const auto& rows = pair.cut.parameters->rows();
  std::vector<at::Tensor> parts, partial, logical, copies;
  std::vector<size_t> partial_rows;
  for (size_t i = 0; i < rows.size(); ++i) {
    const at::Tensor& grad = rows[i]->value.grad();
    parts.push_back(grad.defined() ? grad : at::zeros_like(rows[i]->value));
    const bool norm = rows[i]->spec.name.find("norm") != std::string::npos;
    if (rows[i]->partial_axes.empty() || (fault == Fault::kNormsNotSummed && norm)) continue;
    partial.push_back(parts.back());
    partial_rows.push_back(i);
  }
  partial = summed(*pair.ranks, partial);
  for (size_t i = 0; i < partial.size(); ++i) parts[partial_rows[i]] = partial[i];
  for (size_t i = 0; i < rows.size(); ++i) {
    logical.push_back(at::zeros(rows[i]->spec.shape, at::kDouble));
    copies.push_back(at::zeros_like(logical.back()));
    rows[i]->holding.write_into(logical.back(), parts[i]);
    rows[i]->holding.write_into(copies.back(), at::ones_like(parts[i]));
  }
  logical = summed(*pair.ranks, logical);
  copies = summed(*pair.ranks, copies);
  std::string wrong;
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string& name = rows[i]->spec.name;
    const at::Tensor expected = pair.whole.parameters->at(name).value.grad();
    wrong += difference(name + " on this rank", parts[i], rows[i]->holding.select(expected));
    wrong += difference(name, logical[i] / copies[i], expected);
  }
  return wrong;
}

/// Loss, gradients, likelihoods and logits of a batch on both; "" when equal.
inline std::string compare_steps(TensorPair& pair, const parallel::NamedTensors& batch,
                                 Fault fault = Fault::kNone) {
  if (fault == Fault::kBiasOnEveryRank) {
    const at::NoGradGuard no_grad;
    pair.cut.parameters->at("layers.0.ffn.down.bias").value.mul_(pair.ranks->mesh().degree("tensor"));
  }
  std::string wrong;
  const auto expected = pair.run_whole("loss", batch, true), got = pair.run_cut("loss", batch, true);
  for (const char* name : {"loss_sum", "loss_weight"}) {
    wrong += difference(name, got.at(name).detach(), expected.at(name).detach());
  }
  expected.at("loss_sum").mul(0.5).backward();
  got.at("loss_sum").mul(0.5).backward();
  wrong += compare_gradients(pair, fault);
  const at::NoGradGuard no_grad;
  for (const char* head : {"log_likelihood", "logits"}) {
    wrong += difference(head, pair.run_cut(head, batch, false).at(head),
                        pair.run_whole(head, batch, false).at(head));
  }
  return wrong;
}

}  // namespace axial::models::testing
