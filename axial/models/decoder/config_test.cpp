// SPDX-License-Identifier: Apache-2.0
// Settings of the decoder: presets have the sizes they claim, mistakes are named.
#include "axial/models/decoder/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "axial/core/check/check.h"
#include "axial/models/decoder/decoder.h"

namespace axial::models {
namespace {

int64_t count_parameters(const Model& model) {
  int64_t count = 0;
  for (const auto& row : model.parameters->rows()) {
    int64_t size = 1;
    for (const int64_t dim : row->spec.shape) size *= dim;
    count += size;
  }
  return count;
}

std::string error_of(const nlohmann::json& settings) {
  try {
    read_decoder_config(settings);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

const nlohmann::json kSmall = {{"vocab_size", 8}, {"hidden_size", 12}, {"num_layers", 1}, {"num_heads", 3}};

nlohmann::json with(const char* key, const nlohmann::json& value) {
  nlohmann::json settings = kSmall;
  settings[key] = value;
  return settings;
}

TEST(DecoderConfig, PresetsHaveTheirSizes) {
  // Per layer 4 h^2 + 2 h f and biases; two tables of 69 rows.
  const std::pair<const char*, double> sizes[] = {{"genslm_25m", 25.3e6},
                                                  {"genslm_250m", 252.9e6},
                                                  {"genslm_2.5b", 2.532e9},
                                                  {"genslm_25b", 25.57e9},
                                                  {"genslm_33b", 31.86e9}};
  for (const auto& [name, expected] : sizes) {
    const Model model = build_decoder(read_decoder_config({{"preset", name}}));
    EXPECT_NEAR(static_cast<double>(count_parameters(model)) / expected, 1.0, 3e-3) << name;
  }
  const DecoderConfig small = read_decoder_config({{"preset", "genslm_25m"}, {"num_layers", 3}});
  EXPECT_EQ(small.num_layers, 3);
  EXPECT_EQ(small.hidden_size, 512);
}

TEST(DecoderConfig, FillsDerivedSizes) {
  const DecoderConfig config = read_decoder_config(kSmall);
  EXPECT_EQ(config.num_kv_heads, 3);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.ffn_size, 48);
}

TEST(DecoderConfig, NamesMistakes) {
  using ::testing::HasSubstr;
  EXPECT_THAT(error_of(with("num_head", 3)), HasSubstr("did you mean 'num_heads'"));
  EXPECT_THAT(error_of(with("rotary", {{"bass", 3}})), HasSubstr("model.rotary.bass: unknown key"));
  EXPECT_THAT(error_of(with("num_heads", 5)),
              HasSubstr("'num_heads'; expected a divisor of hidden_size 12, got 5"));
  EXPECT_THAT(error_of(with("num_kv_heads", 2)),
              HasSubstr("expected 0 or a divisor of num_heads (3), got 2"));
  EXPECT_THAT(error_of(with("position", "rotari")), HasSubstr("did you mean 'rotary'"));
  EXPECT_THAT(error_of(with("activation", "swigly")), HasSubstr("did you mean 'swiglu'"));
  EXPECT_THAT(error_of(with("attention_dropout", 0.1)), HasSubstr("never stores its probabilities"));
  EXPECT_THAT(error_of(with("residual_dropout", 1.0)), HasSubstr("[0, 1)"));
  EXPECT_THAT(error_of(with("hidden_size", -12)), HasSubstr("expected a positive number, got -12"));
  EXPECT_THAT(error_of(with("hidden_size", 12.5)), HasSubstr("expected an integer, got '12.5'"));
  EXPECT_THAT(error_of(with("qkv_bias", 1)), HasSubstr("expected true or false, got '1'"));
  EXPECT_THAT(error_of(with("rotary", {{"fraction", 0.1}})), HasSubstr("rotated entries"));
  EXPECT_THAT(error_of(with("rotary", {{"scaling", "yarn"}})), HasSubstr("linear"));
  EXPECT_THAT(error_of(with("rotary", 3)), HasSubstr("model.rotary: expected a section"));
  EXPECT_THAT(error_of({{"preset", "genslm_25"}}), HasSubstr("did you mean 'genslm_25"));
  EXPECT_THAT(error_of({{"hidden_size", 12}}), HasSubstr("'vocab_size'"));
}

TEST(DecoderConfig, Llama3FrequenciesKeepShortAndStretchLongWaves) {
  RotaryOptions rotary;
  rotary.base = 500000.0;
  const std::vector<double> plain = rotary.frequencies(128);
  rotary.scaling = RotaryScaling::kLlama3;
  rotary.factor = 8.0;
  const std::vector<double> scaled = rotary.frequencies(128);
  ASSERT_EQ(plain.size(), 64U);
  EXPECT_EQ(scaled.front(), 1.0);
  EXPECT_EQ(scaled.back(), plain.back() / 8.0);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 8.0 * (1 - 1e-12));
  }
}

TEST(Registry, NamesUnknownModelsAndHeads) {
  const ModelRegistry registry = all_models();
  EXPECT_THAT(registry.types(), ::testing::Contains("decoder"));
  EXPECT_THROW(registry.at("decodr"), ValueError);
  const Model model = registry.at("decoder").build(kSmall);
  EXPECT_EQ(model.blocks_with("loss").size(), 4U);
  try {
    model.blocks_with("los");
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("did you mean 'loss'"));
  }
}

}  // namespace
}  // namespace axial::models
