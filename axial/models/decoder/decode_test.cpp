// SPDX-License-Identifier: Apache-2.0
// Decoding with cached keys and values equals the full forward pass, for sequences of different length.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/models/decoder/decoder_case.h"

namespace axial::models {
namespace {

using parallel::DecodeState;
using parallel::NamedTensors;
using testing::run_blocks;

/// Logits of one whole sequence, [L, V].
at::Tensor full_logits(const Model& model, const at::Tensor& tokens) {
  const int64_t length = tokens.size(0);
  return run_blocks(model.blocks_with("logits"), {{"tokens", tokens.unsqueeze(0)},
                                                  {"positions", at::arange(length, at::kLong).unsqueeze(0)},
                                                  {"segments", at::tensor({int64_t{0}, length}, at::kLong)},
                                                  {"sample_ids", at::zeros({1}, at::kLong)},
                                                  {"record_starts", at::zeros({1, length}, at::kLong)},
                                                  {"row_positions", at::arange(length, at::kLong)}})
      .at("logits")[0];
}

class Decode : public ::testing::TestWithParam<testing::DecoderCase> {};

INSTANTIATE_TEST_SUITE_P(Options, Decode, ::testing::ValuesIn(testing::decoder_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Decode, EqualsFullForwardForRaggedPrompts) {
  at::NoGradGuard no_grad;
  Model model = all_models().at("decoder").build(GetParam().settings);
  model.parameters->materialize(at::kCPU, at::kDouble, 5);
  const at::Tensor tokens = testing::packed_batch({14, 14, 14}, 14, 13).at("tokens");
  const std::vector<int64_t> prompts = {3, 6, 1};
  std::vector<at::Tensor> expected;
  for (int64_t b = 0; b < 3; ++b) expected.push_back(full_logits(model, tokens[b]));

  DecodeState state;
  state.capacity = 14;
  state.lengths = at::zeros({3}, at::kLong);
  const auto blocks = model.blocks_with("logits");
  const auto step = [&](const at::Tensor& fresh, const std::vector<int64_t>& counts) {
    const at::Tensor positions = state.lengths.unsqueeze(1) + at::arange(fresh.size(1), at::kLong);
    const at::Tensor logits =
        run_blocks(blocks, {{"tokens", fresh}, {"positions", positions}}, {{}, false, &state}).at("logits");
    for (int64_t b = 0; b < 3; ++b) {
      const int64_t done = state.lengths[b].item<int64_t>();
      EXPECT_TRUE(at::allclose(logits[b].narrow(0, 0, counts[b]), expected[b].narrow(0, done, counts[b]),
                               1e-11, 1e-11))
          << "sequence " << b << " at " << done;
    }
    state.lengths.add_(at::tensor(counts, at::kLong));
  };
  // Prompts padded on the right: what lies behind a sequence's own length is overwritten later.
  step(tokens.narrow(1, 0, 6), prompts);
  for (int i = 0; i < 5; ++i) {
    at::Tensor next = at::empty({3, 1}, at::kLong);
    for (int64_t b = 0; b < 3; ++b) next[b][0] = tokens[b][state.lengths[b].item<int64_t>()];
    step(next, {1, 1, 1});
  }
}

TEST(DecodeErrors, CacheOverflowAndWrongBatchAreNamed) {
  at::NoGradGuard no_grad;
  Model model = all_models().at("decoder").build(testing::decoder_cases()[1].settings);
  model.parameters->materialize(at::kCPU, at::kFloat, 5);
  DecodeState state;
  state.capacity = 4;
  state.lengths = at::zeros({2}, at::kLong);
  const auto blocks = model.blocks_with("logits");
  const auto run = [&](int64_t batch, int64_t count) {
    const NamedTensors inputs = {{"tokens", at::zeros({batch, count}, at::kLong)},
                                 {"positions", at::zeros({batch, count}, at::kLong)}};
    run_blocks(blocks, inputs, {{}, false, &state});
  };
  const auto message = [&](int64_t batch, int64_t count) -> std::string {
    try {
      run(batch, count);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message(2, 5),
              ::testing::HasSubstr("cache of sequence 0 is full; expected at most 4 positions, got 5"));
  EXPECT_THAT(message(3, 1), ::testing::HasSubstr("expected [3] int64 on the host"));
  state.lengths = at::zeros({3}, at::kLong);
  EXPECT_THAT(message(3, 1), ::testing::HasSubstr("expected 2 sequences, got 3"));
}

}  // namespace
}  // namespace axial::models
