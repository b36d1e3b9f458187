// SPDX-License-Identifier: Apache-2.0
// GPT-NeoX (Black et al., 2022), the family of GenSLM and Pythia: queries, keys and values interleaved per
// head, rotary embeddings on a share of each head, parallel residual.
#include "axial/models/decoder/hugging_face.h"
#include "axial/models/decoder/hugging_face_fields.h"

namespace axial::models {
namespace {

DecoderConfig import_config(const nlohmann::json& json) {
  const ForeignConfig hf(json, "gpt_neox");
  DecoderConfig config;
  config.vocab_size = hf.integer({"vocab_size"}, 50432);
  config.hidden_size = hf.integer({"hidden_size"}, 6144);
  config.num_layers = hf.integer({"num_hidden_layers"}, 44);
  config.num_heads = hf.integer({"num_attention_heads"}, 64);
  config.ffn_size = hf.integer({"intermediate_size"}, 24576);
  config.max_positions = hf.integer({"max_position_embeddings"}, 2048);
  config.position = PositionKind::kRotary;
  config.rotary = hf.rotary(0.25);
  config.activation = hf.activation({"hidden_act"}, "gelu");
  config.norm_eps = hf.number({"layer_norm_eps"}, 1e-5);
  config.parallel_residual = hf.flag({"use_parallel_residual"}, true);
  config.tied_embeddings = hf.flag({"tie_word_embeddings"}, false);
  config.qkv_bias = config.out_bias = hf.flag({"attention_bias"}, true);
  config.embedding_dropout = config.residual_dropout = hf.number({"hidden_dropout"}, 0.0);
  config.init_std = hf.number({"initializer_range"}, 0.02);
  return config;
}

nlohmann::json export_config(const DecoderConfig& config) {
  const ExportGate gate("gpt_neox");
  gate.require_no_mask(config);
  gate.require("position", config.position, PositionKind::kRotary);
  gate.require("norm", config.norm, Norm::Kind::kLayerNorm);
  gate.require("embedding_norm", config.embedding_norm, false);
  gate.require("activation (gated)", config.gated(), false);
  gate.require("out_bias", config.out_bias, config.qkv_bias);
  gate.require("ffn_bias", config.ffn_bias, true);
  gate.require("head_bias", config.head_bias, false);
  gate.require_plain_heads(config);
  nlohmann::json json = {{"model_type", "gpt_neox"},
                         {"architectures", {"GPTNeoXForCausalLM"}},
                         {"vocab_size", config.vocab_size},
                         {"hidden_size", config.hidden_size},
                         {"num_hidden_layers", config.num_layers},
                         {"num_attention_heads", config.num_heads},
                         {"intermediate_size", config.ffn_size},
                         {"max_position_embeddings", config.max_positions},
                         {"hidden_act", foreign_activation(config.activation, "gelu_pytorch_tanh")},
                         {"layer_norm_eps", config.norm_eps},
                         {"use_parallel_residual", config.parallel_residual},
                         {"tie_word_embeddings", config.tied_embeddings},
                         {"attention_bias", config.qkv_bias},
                         {"hidden_dropout", config.residual_dropout},
                         {"attention_dropout", 0.0},
                         {"initializer_range", config.init_std},
                         {"rotary_pct", config.rotary.fraction},
                         {"rotary_emb_base", config.rotary.base}};
  write_rotary(config.rotary, json);
  return json;
}

std::vector<WeightMap> weights(const DecoderConfig& config) {
  std::vector<WeightMap> maps = {{"embed.tokens.weight", {"embed_in.weight"}}};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string ours = "layers." + std::to_string(i) + ".", theirs = ours;
    const auto add = [&](const char* a, const char* b, bool with_bias, WeightForm form = WeightForm::kSame) {
      maps.push_back({ours + a + ".weight", {theirs + b + ".weight"}, form});
      if (with_bias) maps.push_back({ours + a + ".bias", {theirs + b + ".bias"}, form});
    };
    add("attention_norm", "input_layernorm", true);
    add("attention.qkv", "attention.query_key_value", config.qkv_bias, WeightForm::kInterleavedQkv);
    add("attention.out", "attention.dense", config.out_bias);
    add("ffn_norm", "post_attention_layernorm", true);
    add("ffn.up", "mlp.dense_h_to_4h", true);
    add("ffn.down", "mlp.dense_4h_to_h", true);
  }
  maps.push_back({"final_norm.weight", {"final_layer_norm.weight"}});
  maps.push_back({"final_norm.bias", {"final_layer_norm.bias"}});
  maps.push_back({"head.weight", {"embed_out.weight"}});
  return maps;
}

}  // namespace

HuggingFaceFamily gpt_neox_family() {
  return {"gpt_neox",
          "gpt_neox.",
          import_config,
          export_config,
          weights,
          {".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"},
          {{"embed_out.weight", "lm_head.weight"}}};
}

}  // namespace axial::models
