// SPDX-License-Identifier: Apache-2.0
// Weight exchange without transformers: a round trip gives the same weights, strictness names the culprit.
// Agreement with transformers itself is tested in python/tests/test_hugging_face.py.
#include "axial/models/decoder/hugging_face.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial::models {
namespace {

using ::testing::HasSubstr;
using Tensors = std::map<std::string, at::Tensor>;

const nlohmann::json kBase = {
    {"vocab_size", 11}, {"hidden_size", 12}, {"num_layers", 2}, {"num_heads", 3}, {"ffn_size", 48}};

nlohmann::json settings_of(const std::string& family) {
  nlohmann::json settings = kBase;
  if (family == "gpt2") settings.update({{"position", "learned"}, {"tied_embeddings", true}});
  if (family == "gpt_neox") settings.update({{"parallel_residual", true}, {"rotary", {{"fraction", 0.5}}}});
  if (family == "bloom") {
    settings.update({{"position", "alibi"},
                     {"embedding_norm", true},
                     {"activation", "gelu_tanh"},
                     {"tied_embeddings", true}});
  }
  if (family == "llama") {
    settings.update(
        {{"num_kv_heads", 1}, {"norm", "rms_norm"}, {"activation", "swiglu"}, {"ffn_bias", false}});
  }
  return settings;
}

struct Exchange {
  HuggingFaceAdapter adapter = decoder_hugging_face();
  Model model;
  nlohmann::json hf_config;
  Tensors tensors;

  explicit Exchange(const std::string& family, at::ScalarType dtype = at::kFloat)
      : model(all_models().at("decoder").build(settings_of(family))) {
    model.parameters->materialize(at::kCPU, dtype, 3);
    hf_config = adapter.export_config(model.config, family);
    adapter.export_weights(model.config, family, *model.parameters, parallel::readers_of(*model.parameters),
                           [&](const std::string& name, const at::Tensor& t) { tensors[name] = t.clone(); });
  }
  Model import() const {
    Model result = all_models().at("decoder").build(adapter.import_config(hf_config));
    result.parameters->materialize(at::kCPU, at::kFloat, 99);
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors) names.push_back(name);
    const ForeignWeights weights{names,
                                 [&](const std::string& name) { return tensors.at(name).to(at::kMeta); },
                                 [&](const std::string& name) { return tensors.at(name); }};
    parallel::fill_parameters(*result.parameters,
                              adapter.import_weights(hf_config, weights, *result.parameters));
    return result;
  }
  std::string import_error() const {
    try {
      import();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
};

void expect_equal(const Model& a, const Model& b) {
  ASSERT_EQ(a.parameters->rows().size(), b.parameters->rows().size());
  for (const auto& row : a.parameters->rows()) {
    EXPECT_TRUE(at::equal(row->value, b.parameters->at(row->spec.name).value)) << row->spec.name;
  }
}

class HuggingFace : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Families, HuggingFace, ::testing::Values("gpt2", "gpt_neox", "bloom", "llama"));

TEST_P(HuggingFace, RoundTripKeepsConfigAndWeights) {
  Exchange exchange(GetParam());
  const Model again = exchange.import();
  for (const auto& [key, value] : exchange.model.config.items()) {
    if (key == "scaled_residual_init" || (key == "rotary" && exchange.model.config["position"] != "rotary"))
      continue;
    EXPECT_EQ(again.config[key], value) << key;
  }
  expect_equal(exchange.model, again);
}

TEST_P(HuggingFace, AcceptsFilesWithoutPrefixAndWithHarmlessFields) {
  Exchange exchange(GetParam());
  exchange.hf_config["some_future_field"] = 3;
  exchange.hf_config["use_cache"] = true;
  Tensors bare;
  for (const auto& [name, tensor] : exchange.tensors) {
    bare[name.starts_with("lm_head") || name.starts_with("embed_out") ? name
                                                                      : name.substr(name.find('.') + 1)] =
        tensor;
  }
  exchange.tensors = bare;
  expect_equal(exchange.model, exchange.import());
}

TEST_P(HuggingFace, NamesMissingForeignAndMisshapenTensors) {
  Exchange exchange(GetParam());
  const std::string first = exchange.tensors.begin()->first;
  const at::Tensor kept = exchange.tensors[first];
  exchange.tensors.erase(first);
  EXPECT_THAT(exchange.import_error(), HasSubstr("'" + first + "' of family " + GetParam() + " is missing"));
  exchange.tensors[first] = kept.flatten().narrow(0, 0, kept.numel() - 1);
  EXPECT_THAT(exchange.import_error(), HasSubstr("'" + first + "' has another shape"));
  exchange.tensors[first] = kept.to(at::kChar);
  EXPECT_THAT(exchange.import_error(), HasSubstr("'" + first + "' holds integers"));
  exchange.tensors[first] = kept;
  exchange.tensors["adapter.weight"] = kept;
  EXPECT_THAT(exchange.import_error(), HasSubstr("1 tensors have no place"));
  EXPECT_THAT(exchange.import_error(), HasSubstr("'adapter.weight'"));
}

TEST_P(HuggingFace, SixteenBitWeightsGoThrough) {
  Exchange exchange(GetParam(), at::kBFloat16);
  for (const auto& [name, tensor] : exchange.tensors) EXPECT_EQ(tensor.scalar_type(), at::kBFloat16) << name;
  const Model again = exchange.import();
  for (const auto& row : again.parameters->rows()) {
    EXPECT_TRUE(at::equal(row->value, exchange.model.parameters->at(row->spec.name).value.to(at::kFloat)));
  }
}

TEST_P(HuggingFace, RefusesFieldsWithoutEquivalent) {
  const HuggingFaceAdapter adapter = decoder_hugging_face();
  const nlohmann::json config = Exchange(GetParam()).hf_config;
  const auto error_with = [&](const char* key, const nlohmann::json& value) -> std::string {
    nlohmann::json changed = config;
    changed[key] = value;
    try {
      adapter.import_config(changed);
    } catch (const UnsupportedError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(error_with("quantization_config", {{"bits", 4}}), HasSubstr("'quantization_config'"));
  EXPECT_THAT(error_with("sliding_window", 128), HasSubstr("'sliding_window'"));
  EXPECT_THAT(error_with("add_cross_attention", true), HasSubstr("'add_cross_attention'"));
  if (GetParam() == "gpt2") {
    EXPECT_THAT(error_with("scale_attn_by_inverse_layer_idx", true),
                HasSubstr("'scale_attn_by_inverse_layer_idx'"));
    EXPECT_THAT(error_with("reorder_and_upcast_attn", true), HasSubstr("'reorder_and_upcast_attn'"));
    EXPECT_THAT(error_with("scale_attn_weights", false), HasSubstr("'scale_attn_weights'"));
    EXPECT_THAT(error_with("activation_function", "quick_gelu"), HasSubstr("'quick_gelu'"));
  }
  if (GetParam() == "bloom") {
    EXPECT_THAT(error_with("apply_residual_connection_post_layernorm", true), HasSubstr("post_layernorm"));
  }
  if (GetParam() == "llama" || GetParam() == "gpt_neox") {
    EXPECT_THAT(error_with("rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}}), HasSubstr("'yarn'"));
    EXPECT_THAT(error_with("hidden_act", "xielu"), HasSubstr("'xielu'"));
  }
}

TEST(HuggingFaceConfig, ReadsEverySpellingOfRotary) {
  const HuggingFaceAdapter adapter = decoder_hugging_face();
  const nlohmann::json neox = {
      {"model_type", "gpt_neox"},     {"vocab_size", 10},         {"hidden_size", 64},
      {"num_hidden_layers", 1},       {"num_attention_heads", 4}, {"intermediate_size", 8},
      {"max_position_embeddings", 32}};
  const auto rotary = [&](const nlohmann::json& more) {
    nlohmann::json config = neox;
    config.update(more);
    return adapter.import_config(config).at("rotary");
  };
  EXPECT_EQ(rotary(nlohmann::json::object()).at("fraction"), 0.25);
  EXPECT_EQ(rotary({{"rotary_pct", 0.5}, {"rotary_emb_base", 5000}}),
            rotary({{"rotary_pct", 0.5}, {"rope_theta", 5000}}));
  EXPECT_EQ(rotary({{"rotary_pct", 0.5}, {"rotary_emb_base", 5000}}),
            rotary({{"rope_parameters",
                     {{"rope_type", "default"}, {"rope_theta", 5000}, {"partial_rotary_factor", 0.5}}}}));
  EXPECT_EQ(rotary({{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}).at("scaling"), "linear");
  const nlohmann::json llama3 = rotary({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}});
  EXPECT_EQ(llama3.at("original_max_positions"), 32);
}

TEST(HuggingFaceConfig, NamesWhatAFamilyCannotExpress) {
  const HuggingFaceAdapter adapter = decoder_hugging_face();
  const auto error_for = [&](const char* family, const nlohmann::json& more) -> std::string {
    nlohmann::json settings = settings_of("llama");
    settings.update(more);
    try {
      adapter.export_config(all_models().at("decoder").build(settings).config, family);
    } catch (const UnsupportedError& error) {
      return error.what();
    }
    return "";
  };
  const nlohmann::json nothing = nlohmann::json::object();
  EXPECT_THAT(error_for("gpt2", nothing), HasSubstr("family 'gpt2' cannot express 'position'"));
  EXPECT_THAT(error_for("gpt_neox", nothing), HasSubstr("family 'gpt_neox' cannot express 'norm'"));
  EXPECT_THAT(error_for("bloom", nothing), HasSubstr("family 'bloom' cannot express 'position'"));
  EXPECT_THAT(error_for("llama", {{"head_bias", true}}),
              HasSubstr("family 'llama' cannot express 'head_bias'"));
  EXPECT_THAT(error_for("mamba", nothing),
              HasSubstr("expected one of gpt2, gpt_neox, bloom, llama, got 'mamba'"));
}

TEST(HuggingFaceWeights, ChecksTiedHeadsAndOldNames) {
  Exchange tied("gpt2");
  tied.tensors["lm_head.weight"] = tied.tensors.at("transformer.wte.weight").clone();
  tied.tensors["transformer.h.0.attn.bias"] = at::ones({1, 1, 4, 4});
  expect_equal(tied.model, tied.import());
  tied.tensors["lm_head.weight"].add_(1);
  EXPECT_THAT(tied.import_error(), HasSubstr("differs from the embedding"));

  Exchange neox("gpt_neox");
  neox.tensors["lm_head.weight"] = neox.tensors.at("embed_out.weight");
  neox.tensors.erase("embed_out.weight");
  neox.tensors["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = at::ones({2});
  neox.tensors["gpt_neox.layers.1.attention.masked_bias"] = at::ones({});
  expect_equal(neox.model, neox.import());
}

}  // namespace
}  // namespace axial::models
