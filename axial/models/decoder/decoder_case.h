// SPDX-License-Identifier: Apache-2.0
// Small decoders and batches for the decoder's tests: every option appears, most pairs of options too.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "axial/models/decoder/decoder.h"

namespace axial::models::testing {

/// Settings under a name that a failing test prints.
struct DecoderCase {
  std::string name;
  nlohmann::json settings;
};

using Variants = std::vector<std::pair<std::string, nlohmann::json>>;

/// What differs from the base in the published families.
inline Variants family_variants() {
  return {{"gpt2", {{"position", "learned"}, {"activation", "gelu_tanh"}, {"tied_embeddings", true}}},
          {"neox", {{"rotary", {{"fraction", 0.5}}}, {"parallel_residual", true}, {"activation", "gelu"}}},
          {"neox_bare",
           {{"parallel_residual", true},
            {"qkv_bias", false},
            {"out_bias", false},
            {"ffn_bias", false},
            {"norm", "rms_norm"},
            {"activation", "relu"}}},
          {"bloom",
           {{"position", "alibi"},
            {"embedding_norm", true},
            {"activation", "gelu_tanh"},
            {"tied_embeddings", true}}},
          {"llama",
           {{"num_heads", 6},
            {"num_kv_heads", 2},
            {"norm", "rms_norm"},
            {"activation", "swiglu"},
            {"qkv_bias", false},
            {"out_bias", false},
            {"ffn_bias", false},
            {"rotary", {{"scaling", "llama3"}, {"factor", 8.0}, {"original_max_positions", 32}}}}}};
}

/// Further options and pairs of them.
inline Variants option_variants() {
  return {{"gqa_alibi",
           {{"position", "alibi"},
            {"num_heads", 6},
            {"num_kv_heads", 3},
            {"head_dim", 6},
            {"activation", "geglu"}}},
          {"mqa_bias",
           {{"num_heads", 4},
            {"num_kv_heads", 1},
            {"parallel_residual", true},
            {"activation", "geglu_tanh"},
            {"out_bias", false},
            {"head_bias", true},
            {"rotary", {{"scaling", "linear"}, {"factor", 2.0}}}}},
          {"dropout",
           {{"position", "learned"},
            {"activation", "silu"},
            {"embedding_dropout", 0.25},
            {"residual_dropout", 0.25},
            {"tied_embeddings", true},
            {"head_bias", true},
            {"ffn_size", 20},
            {"scaled_residual_init", true}}},
          {"dropout_parallel",
           {{"parallel_residual", true},
            {"activation", "gelu"},
            {"residual_dropout", 0.5},
            {"embedding_norm", true}}},
          {"window", {{"attention_mask", {{"window", 3}}}}},
          {"window_and_global",
           {{"position", "alibi"},
            {"num_heads", 6},
            {"num_kv_heads", 2},
            {"attention_mask", {{"window", 2}, {"global", {0, 5}}}}}}};
}

/// A covering set of tiny decoders (2 layers, width 24).
inline std::vector<DecoderCase> decoder_cases() {
  const nlohmann::json base = {{"vocab_size", 13}, {"hidden_size", 24},   {"num_layers", 2},
                               {"num_heads", 3},   {"max_positions", 16}, {"init_std", 0.3}};
  std::vector<DecoderCase> cases;
  for (const Variants& variants : {family_variants(), option_variants()}) {
    for (const auto& [name, variant] : variants) {
      nlohmann::json settings = base;
      settings.update(variant);
      cases.push_back({name, settings});
    }
  }
  return cases;
}

/// Records of the given lengths packed into rows [B, L]; lengths must fill whole rows.
inline parallel::NamedTensors packed_batch(const std::vector<int64_t>& lengths, int64_t row_length,
                                           int64_t vocab, uint64_t seed = 7) {
  std::vector<int64_t> tokens, labels, positions, starts, segments = {0};
  for (const int64_t length : lengths) {
    for (int64_t i = 0; i < length; ++i) {
      const auto draw = [&](int64_t at) {
        return static_cast<int64_t>(random_below(root_key(seed).child(static_cast<uint64_t>(segments.size())),
                                                 static_cast<uint64_t>(at), static_cast<uint64_t>(vocab)));
      };
      tokens.push_back(draw(i));
      labels.push_back(i + 1 < length ? draw(i + 1) : -100);
      positions.push_back(i);
      starts.push_back(segments.back() % row_length);
    }
    segments.push_back(segments.back() + length);
  }
  const int64_t rows = segments.back() / row_length;
  const auto shaped = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::kLong).view({rows, row_length});
  };
  return {{"tokens", shaped(tokens)},
          {"labels", shaped(labels)},
          {"positions", shaped(positions)},
          {"segments", at::tensor(segments, at::kLong)},
          {"sample_ids", at::arange(rows, at::kLong)},
          {"row_positions", at::arange(row_length, at::kLong)},
          {"record_starts", shaped(starts)}};
}

/// Run blocks one after the other over a growing set of named tensors.
inline parallel::NamedTensors run_blocks(const std::vector<parallel::Block>& blocks,
                                         parallel::NamedTensors stream,
                                         const parallel::StepContext& context = {}) {
  for (const parallel::Block& block : blocks) {
    parallel::NamedTensors inputs;
    for (const std::string& name : block.inputs) {
      if (const auto found = stream.find(name); found != stream.end()) inputs[name] = found->second;
    }
    for (auto& [name, tensor] : run_block(block, inputs, context)) stream[name] = tensor;
  }
  return stream;
}

}  // namespace axial::models::testing
