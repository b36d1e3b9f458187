// SPDX-License-Identifier: Apache-2.0
// Llama (Touvron et al., 2023; Llama 3): RMS norms, gated feed-forward, grouped key/value heads, separate
// projections that we fuse.
#include "axial/models/decoder/hugging_face.h"
#include "axial/models/decoder/hugging_face_fields.h"

namespace axial::models {
namespace {

/// Our gated activation <-> the activation of the gate.
constexpr std::pair<FeedForwardKind, FeedForwardKind> kGates[] = {
    {FeedForwardKind::kSwiglu, FeedForwardKind::kSilu},
    {FeedForwardKind::kGeglu, FeedForwardKind::kGelu},
    {FeedForwardKind::kGegluTanh, FeedForwardKind::kGeluTanh}};

DecoderConfig import_config(const nlohmann::json& json) {
  const ForeignConfig hf(json, "llama");
  DecoderConfig config;
  config.vocab_size = hf.integer({"vocab_size"}, 32000);
  config.hidden_size = hf.integer({"hidden_size"}, 4096);
  config.ffn_size = hf.integer({"intermediate_size"}, 11008);
  config.num_layers = hf.integer({"num_hidden_layers"}, 32);
  config.num_heads = hf.integer({"num_attention_heads"}, 32);
  config.num_kv_heads = hf.integer({"num_key_value_heads"}, config.num_heads);
  config.head_dim = hf.integer({"head_dim"}, 0);
  config.max_positions = hf.integer({"max_position_embeddings"}, 2048);
  config.position = PositionKind::kRotary;
  config.rotary = hf.rotary(1.0);
  if (config.rotary.fraction != 1.0) {
    fail<UnsupportedError>("hugging_face",
                           "field 'partial_rotary_factor' of a llama configuration; expected 1, got {}",
                           config.rotary.fraction);
  }
  const FeedForwardKind gate = hf.activation({"hidden_act"}, "silu");
  for (const auto& [ours, theirs] : kGates) {
    if (gate == theirs) config.activation = ours;
  }
  if (!config.gated()) {
    fail<UnsupportedError>("hugging_face",
                           "field 'hidden_act' of a llama configuration; expected silu or a gelu, got '{}'",
                           recipe::name_of_choice(gate));
  }
  config.norm = Norm::Kind::kRmsNorm;
  config.norm_eps = hf.number({"rms_norm_eps"}, 1e-6);
  config.tied_embeddings = hf.flag({"tie_word_embeddings"}, false);
  config.qkv_bias = config.out_bias = hf.flag({"attention_bias"}, false);
  config.ffn_bias = hf.flag({"mlp_bias"}, false);
  config.init_std = hf.number({"initializer_range"}, 0.02);
  return config;
}

nlohmann::json export_config(const DecoderConfig& config) {
  const ExportGate gate("llama");
  gate.require_no_mask(config);
  gate.require("position", config.position, PositionKind::kRotary);
  gate.require("rotary.fraction", config.rotary.fraction, 1.0);
  gate.require("norm", config.norm, Norm::Kind::kRmsNorm);
  gate.require("parallel_residual", config.parallel_residual, false);
  gate.require("embedding_norm", config.embedding_norm, false);
  gate.require("activation (gated)", config.gated(), true);
  gate.require("out_bias", config.out_bias, config.qkv_bias);
  gate.require("head_bias", config.head_bias, false);
  std::string gate_word;
  for (const auto& [ours, theirs] : kGates) {
    if (config.activation == ours) gate_word = foreign_activation(theirs, "gelu_pytorch_tanh");
  }
  nlohmann::json json = {{"model_type", "llama"},
                         {"architectures", {"LlamaForCausalLM"}},
                         {"vocab_size", config.vocab_size},
                         {"hidden_size", config.hidden_size},
                         {"intermediate_size", config.ffn_size},
                         {"num_hidden_layers", config.num_layers},
                         {"num_attention_heads", config.num_heads},
                         {"num_key_value_heads", config.num_kv_heads},
                         {"head_dim", config.head_dim},
                         {"max_position_embeddings", config.max_positions},
                         {"hidden_act", gate_word},
                         {"rms_norm_eps", config.norm_eps},
                         {"tie_word_embeddings", config.tied_embeddings},
                         {"attention_bias", config.qkv_bias},
                         {"mlp_bias", config.ffn_bias},
                         {"attention_dropout", 0.0},
                         {"initializer_range", config.init_std},
                         {"rope_theta", config.rotary.base}};
  write_rotary(config.rotary, json);
  return json;
}

std::vector<WeightMap> weights(const DecoderConfig& config) {
  const int64_t queries = config.num_heads * config.head_dim, keys = config.num_kv_heads * config.head_dim;
  std::vector<WeightMap> maps = {{"embed.tokens.weight", {"embed_tokens.weight"}}};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string ours = "layers." + std::to_string(i) + ".", theirs = ours;
    const auto both = [&](bool with_bias, const auto& add) {
      add(std::string(".weight"));
      if (with_bias) add(std::string(".bias"));
    };
    maps.push_back({ours + "attention_norm.weight", {theirs + "input_layernorm.weight"}});
    both(config.qkv_bias, [&](const std::string& part) {
      const std::string at = theirs + "self_attn.";
      maps.push_back({ours + "attention.qkv" + part,
                      {at + "q_proj" + part, at + "k_proj" + part, at + "v_proj" + part},
                      WeightForm::kStacked,
                      {queries, keys, keys}});
    });
    both(config.out_bias, [&](const std::string& part) {
      maps.push_back({ours + "attention.out" + part, {theirs + "self_attn.o_proj" + part}});
    });
    maps.push_back({ours + "ffn_norm.weight", {theirs + "post_attention_layernorm.weight"}});
    both(config.ffn_bias, [&](const std::string& part) {
      maps.push_back({ours + "ffn.gate_up" + part,
                      {theirs + "mlp.gate_proj" + part, theirs + "mlp.up_proj" + part},
                      WeightForm::kStacked,
                      {config.ffn_size, config.ffn_size}});
      maps.push_back({ours + "ffn.down" + part, {theirs + "mlp.down_proj" + part}});
    });
  }
  maps.push_back({"final_norm.weight", {"norm.weight"}});
  maps.push_back({"head.weight", {"lm_head.weight"}});
  return maps;
}

}  // namespace

HuggingFaceFamily llama_family() {
  return {"llama", "model.", import_config, export_config, weights, {"rotary_emb.inv_freq"}, {}};
}

}  // namespace axial::models
