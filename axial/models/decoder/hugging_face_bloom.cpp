// SPDX-License-Identifier: Apache-2.0
// BLOOM (BigScience, 2022): ALiBi, a norm after the embedding, interleaved queries, keys and values.
#include "axial/models/decoder/hugging_face.h"
#include "axial/models/decoder/hugging_face_fields.h"

namespace axial::models {
namespace {

DecoderConfig import_config(const nlohmann::json& json) {
  const ForeignConfig hf(json, "bloom");
  hf.require("apply_residual_connection_post_layernorm", false);
  DecoderConfig config;
  config.vocab_size = hf.integer({"vocab_size"}, 250880);
  config.hidden_size = hf.integer({"n_embed", "hidden_size"}, 64);
  config.num_layers = hf.integer({"n_layer", "num_hidden_layers"}, 2);
  config.num_heads = hf.integer({"n_head", "num_attention_heads"}, 8);
  config.ffn_size = 4 * config.hidden_size;
  config.max_positions = hf.integer({"seq_length"}, 2048);
  config.position = PositionKind::kAlibi;
  config.activation = FeedForwardKind::kGeluTanh;
  config.embedding_norm = true;
  config.norm_eps = hf.number({"layer_norm_epsilon"}, 1e-5);
  config.tied_embeddings = hf.flag({"tie_word_embeddings"}, true);
  config.residual_dropout = hf.number({"hidden_dropout"}, 0.0);
  config.init_std = hf.number({"initializer_range"}, 0.02);
  return config;
}

nlohmann::json export_config(const DecoderConfig& config) {
  const ExportGate gate("bloom");
  gate.require_no_mask(config);
  gate.require("position", config.position, PositionKind::kAlibi);
  gate.require("norm", config.norm, Norm::Kind::kLayerNorm);
  gate.require("parallel_residual", config.parallel_residual, false);
  gate.require("embedding_norm", config.embedding_norm, true);
  gate.require("activation", config.activation, FeedForwardKind::kGeluTanh);
  gate.require("ffn_size", config.ffn_size, 4 * config.hidden_size);
  gate.require("qkv_bias", config.qkv_bias, true);
  gate.require("out_bias", config.out_bias, true);
  gate.require("ffn_bias", config.ffn_bias, true);
  gate.require("head_bias", config.head_bias, false);
  gate.require_plain_heads(config);
  return {{"model_type", "bloom"},
          {"architectures", {"BloomForCausalLM"}},
          {"vocab_size", config.vocab_size},
          {"hidden_size", config.hidden_size},
          {"n_layer", config.num_layers},
          {"n_head", config.num_heads},
          {"seq_length", config.max_positions},
          {"layer_norm_epsilon", config.norm_eps},
          {"tie_word_embeddings", config.tied_embeddings},
          {"hidden_dropout", config.residual_dropout},
          {"attention_dropout", 0.0},
          {"initializer_range", config.init_std}};
}

std::vector<WeightMap> weights(const DecoderConfig& config) {
  std::vector<WeightMap> maps;
  const auto add = [&](const std::string& a, const std::string& b, WeightForm form = WeightForm::kSame) {
    maps.push_back({a + ".weight", {b + ".weight"}, form});
    maps.push_back({a + ".bias", {b + ".bias"}, form});
  };
  maps.push_back({"embed.tokens.weight", {"word_embeddings.weight"}});
  add("embed.norm", "word_embeddings_layernorm");
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string ours = "layers." + std::to_string(i) + ".", theirs = "h." + std::to_string(i) + ".";
    add(ours + "attention_norm", theirs + "input_layernorm");
    add(ours + "attention.qkv", theirs + "self_attention.query_key_value", WeightForm::kInterleavedQkv);
    add(ours + "attention.out", theirs + "self_attention.dense");
    add(ours + "ffn_norm", theirs + "post_attention_layernorm");
    add(ours + "ffn.up", theirs + "mlp.dense_h_to_4h");
    add(ours + "ffn.down", theirs + "mlp.dense_4h_to_h");
  }
  add("final_norm", "ln_f");
  maps.push_back({"head.weight", {"lm_head.weight"}});
  return maps;
}

}  // namespace

HuggingFaceFamily bloom_family() {
  return {"bloom", "transformer.", import_config, export_config, weights, {}, {}};
}

}  // namespace axial::models
