// SPDX-License-Identifier: Apache-2.0
// The same mask said in different ways gives the same model; what contradicts itself is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "axial/core/check/check.h"
#include "axial/models/decoder/decoder_case.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::models {
namespace {

using ::testing::HasSubstr;
using testing::packed_batch;
using testing::run_blocks;

nlohmann::json with_mask(const nlohmann::json& mask) {
  nlohmann::json settings = testing::decoder_cases()[0].settings;
  if (!mask.is_null()) settings["attention_mask"] = mask;
  return settings;
}

at::Tensor logits_with(const nlohmann::json& mask, const parallel::NamedTensors& batch) {
  const at::NoGradGuard no_grad;
  const Model model = all_models().at("decoder").build(with_mask(mask));
  model.parameters->materialize(at::kCPU, at::kDouble, 5);
  return run_blocks(model.blocks_with("logits"), batch).at("logits");
}

std::string error_with(const nlohmann::json& mask) {
  try {
    all_models().at("decoder").build(with_mask(mask));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

nlohmann::json config_with(const nlohmann::json& mask) {
  return all_models().at("decoder").build(with_mask(mask)).config;
}

class AttentionMask : public ::testing::Test {
 protected:
  // An .npy file of 16 places.
  std::string file_of(const std::function<bool(int64_t, int64_t)>& sees) {
    std::string header = "{'descr': '|b1', 'fortran_order': False, 'shape': (16, 16), }";
    header.resize(117, ' ');
    header += '\n';
    std::string text = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header;
    for (int64_t q = 0; q < 16; ++q) {
      for (int64_t k = 0; k < 16; ++k) text += static_cast<char>(sees(q, k) ? 1 : 0);
    }
    const auto path = folder_ / ("mask" + std::to_string(files_++) + ".npy");
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  axial::testing::TemporaryFolder folder_;
  int files_ = 0;
};

TEST_F(AttentionMask, AFileSaysWhatAWindowAndPlacesSay) {
  for (const auto& batch : {packed_batch({5, 11, 16}, 16, 13), packed_batch({16, 16}, 16, 13)}) {
    const at::Tensor all = logits_with(nullptr, batch);
    const auto same = [&](const nlohmann::json& a, const nlohmann::json& b) {
      const at::Tensor x = logits_with(a, batch), y = logits_with(b, batch);
      return at::allclose(x, y, 1e-12, 1e-12);
    };
    const auto file = [&](const auto& sees) { return nlohmann::json{{"file", file_of(sees)}}; };
    EXPECT_TRUE(same(nullptr, file([](int64_t, int64_t) { return true; })));
    EXPECT_TRUE(same({{"window", 3}}, file([](int64_t q, int64_t k) { return q - k <= 3; })));
    const nlohmann::json both = {{"window", 2}, {"global", {1, 6}}};
    EXPECT_TRUE(same(
        both, file([](int64_t q, int64_t k) { return q - k <= 2 || q == 1 || k == 1 || q == 6 || k == 6; })));
    EXPECT_TRUE(same({{"window", 16}}, nullptr));
    EXPECT_FALSE(at::allclose(logits_with({{"window", 3}}, batch), all));
    EXPECT_FALSE(same(both, {{"window", 2}}));
  }
}

TEST_F(AttentionMask, ContradictionsAndDamageAreNamed) {
  const std::string file = file_of([](int64_t, int64_t) { return true; });
  EXPECT_THAT(error_with({{"window", -1}}), HasSubstr("'attention_mask.window'; expected 0 or more, got -1"));
  EXPECT_THAT(error_with({{"global", {0}}}), HasSubstr("'attention_mask.global'; expected a window"));
  for (const int64_t place : {int64_t{-3}, int64_t{16}, int64_t{9'000'000'000'000'000'000}}) {
    EXPECT_THAT(error_with({{"window", 2}, {"global", {place}}}), HasSubstr("expected places of [0, 16)"));
  }
  EXPECT_THAT(error_with({{"window", 2}, {"file", file}}), HasSubstr("'attention_mask.file'"));
  EXPECT_THAT(error_with({{"file", "nothing.npy"}}), HasSubstr("nothing.npy"));
  EXPECT_THAT(error_with({{"globl", {0}}}), HasSubstr("did you mean 'global'"));
}

TEST_F(AttentionMask, AFileOfAnotherContentIsAnotherModel) {
  const std::string file = file_of([](int64_t q, int64_t k) { return q - k <= 3; });
  const nlohmann::json made = config_with({{"file", file}});
  EXPECT_NO_THROW(all_models().at("decoder").build(made));
  std::filesystem::copy_file(file_of([](int64_t q, int64_t k) { return q - k <= 4; }), file,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(error_with(made["attention_mask"]),
              HasSubstr("expected the content that the model was made with"));
  EXPECT_NE(config_with({{"file", file}}), made);
  nlohmann::json longer = with_mask({{"file", file}});
  longer["max_positions"] = 17;
  try {
    all_models().at("decoder").build(longer);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), HasSubstr("expected at least max_positions 17 places, got 16"));
  }
}

TEST_F(AttentionMask, NoFamilyOfHuggingFaceHasOne) {
  const Model model = all_models().at("decoder").build(with_mask({{"window", 3}}));
  for (const std::string family : {"gpt2", "gpt_neox", "bloom", "llama"}) {
    try {
      all_models().at("decoder").hugging_face.export_config(model.config, family);
      FAIL() << family;
    } catch (const UnsupportedError& error) {
      EXPECT_THAT(error.what(), HasSubstr("'attention_mask'")) << family;
    }
  }
}

}  // namespace
}  // namespace axial::models
