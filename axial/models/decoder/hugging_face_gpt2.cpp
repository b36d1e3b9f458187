// SPDX-License-Identifier: Apache-2.0
// GPT-2 (Radford et al., 2019) as transformers names it: Conv1D weights are transposed.
#include "axial/models/decoder/hugging_face.h"
#include "axial/models/decoder/hugging_face_fields.h"

namespace axial::models {
namespace {

DecoderConfig import_config(const nlohmann::json& json) {
  const ForeignConfig hf(json, "gpt2");
  hf.require("scale_attn_weights", true);
  hf.require("scale_attn_by_inverse_layer_idx", false);
  hf.require("reorder_and_upcast_attn", false);
  DecoderConfig config;
  config.vocab_size = hf.integer({"vocab_size"}, 50257);
  config.max_positions = hf.integer({"n_positions", "max_position_embeddings"}, 1024);
  config.hidden_size = hf.integer({"n_embd", "hidden_size"}, 768);
  config.num_layers = hf.integer({"n_layer", "num_hidden_layers"}, 12);
  config.num_heads = hf.integer({"n_head", "num_attention_heads"}, 12);
  config.ffn_size = hf.integer({"n_inner"}, 4 * config.hidden_size);
  config.activation = hf.activation({"activation_function"}, "gelu_new");
  config.norm_eps = hf.number({"layer_norm_epsilon"}, 1e-5);
  config.embedding_dropout = hf.number({"embd_pdrop"}, 0.1);
  config.residual_dropout = hf.number({"resid_pdrop"}, 0.1);
  config.init_std = hf.number({"initializer_range"}, 0.02);
  config.tied_embeddings = hf.flag({"tie_word_embeddings"}, true);
  config.position = PositionKind::kLearned;
  config.scaled_residual_init = true;
  return config;
}

nlohmann::json export_config(const DecoderConfig& config) {
  const ExportGate gate("gpt2");
  gate.require_no_mask(config);
  gate.require("position", config.position, PositionKind::kLearned);
  gate.require("norm", config.norm, Norm::Kind::kLayerNorm);
  gate.require("parallel_residual", config.parallel_residual, false);
  gate.require("embedding_norm", config.embedding_norm, false);
  gate.require("activation (gated)", config.gated(), false);
  gate.require("qkv_bias", config.qkv_bias, true);
  gate.require("out_bias", config.out_bias, true);
  gate.require("ffn_bias", config.ffn_bias, true);
  gate.require("head_bias", config.head_bias, false);
  gate.require_plain_heads(config);
  return {{"model_type", "gpt2"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"vocab_size", config.vocab_size},
          {"n_positions", config.max_positions},
          {"n_embd", config.hidden_size},
          {"n_layer", config.num_layers},
          {"n_head", config.num_heads},
          {"n_inner", config.ffn_size},
          {"activation_function", foreign_activation(config.activation, "gelu_new")},
          {"layer_norm_epsilon", config.norm_eps},
          {"embd_pdrop", config.embedding_dropout},
          {"resid_pdrop", config.residual_dropout},
          {"attn_pdrop", 0.0},
          {"initializer_range", config.init_std},
          {"tie_word_embeddings", config.tied_embeddings}};
}

std::vector<WeightMap> weights(const DecoderConfig& config) {
  std::vector<WeightMap> maps = {{"embed.tokens.weight", {"wte.weight"}},
                                 {"embed.positions.weight", {"wpe.weight"}}};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string ours = "layers." + std::to_string(i) + ".", theirs = "h." + std::to_string(i) + ".";
    const std::pair<const char*, const char*> norms[] = {{"attention_norm", "ln_1"}, {"ffn_norm", "ln_2"}};
    for (const auto& [a, b] : norms) {
      maps.push_back({ours + a + ".weight", {theirs + b + ".weight"}});
      maps.push_back({ours + a + ".bias", {theirs + b + ".bias"}});
    }
    const std::pair<const char*, const char*> linears[] = {{"attention.qkv", "attn.c_attn"},
                                                           {"attention.out", "attn.c_proj"},
                                                           {"ffn.up", "mlp.c_fc"},
                                                           {"ffn.down", "mlp.c_proj"}};
    for (const auto& [a, b] : linears) {
      maps.push_back({ours + a + ".weight", {theirs + b + ".weight"}, WeightForm::kTransposed});
      maps.push_back({ours + a + ".bias", {theirs + b + ".bias"}});
    }
  }
  maps.push_back({"final_norm.weight", {"ln_f.weight"}});
  maps.push_back({"final_norm.bias", {"ln_f.bias"}});
  maps.push_back({"head.weight", {"lm_head.weight"}});
  return maps;
}

}  // namespace

HuggingFaceFamily gpt2_family() {
  return {"gpt2", "transformer.", import_config, export_config, weights, {".attn.bias", ".attn.masked_bias"},
          {}};
}

}  // namespace axial::models
