// SPDX-License-Identifier: Apache-2.0
// Invariants of the decoder: causality, packing, dropout, gradients against central differences.
#include "axial/models/decoder/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/models/decoder/decoder_case.h"
#include "axial/models/decoder/layer.h"

namespace axial::models {
namespace {

using parallel::NamedTensors;
using parallel::StepContext;
using testing::DecoderCase;
using testing::packed_batch;
using testing::run_blocks;

class Decoder : public ::testing::TestWithParam<DecoderCase> {
 protected:
  Model make(at::ScalarType dtype = at::kDouble) {
    Model model = all_models().at("decoder").build(GetParam().settings);
    model.parameters->materialize(at::kCPU, dtype, 11);
    return model;
  }
  /// Biases and norms start as constants; move every weight so that a wrong use of one shows.
  static void perturb(Model& model) {
    at::NoGradGuard no_grad;
    uint64_t seed = 0;
    for (const auto& row : model.parameters->rows()) {
      row->value.add_(0.1 * at::sin(at::arange(row->value.numel(), at::kDouble) * 1.7 + double(++seed))
                                .view(row->value.sizes())
                                .to(row->value.scalar_type()));
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Options, Decoder, ::testing::ValuesIn(testing::decoder_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Decoder, SeesNothingOfLaterTokens) {
  Model model = make();
  perturb(model);
  NamedTensors batch = packed_batch({12}, 12, 13);
  const at::Tensor before = run_blocks(model.blocks_with("logits"), batch).at("logits");
  NamedTensors changed = batch;
  changed["tokens"] = batch["tokens"].clone();
  changed["tokens"].narrow(1, 7, 5).add_(1).remainder_(13);
  const at::Tensor after = run_blocks(model.blocks_with("logits"), changed).at("logits");
  EXPECT_TRUE(at::allclose(before.narrow(1, 0, 7), after.narrow(1, 0, 7), 1e-12, 1e-12));
  EXPECT_GT((before - after).abs().amax({0, 2}).narrow(0, 7, 5).min().item<double>(), 1e-6);
}

TEST_P(Decoder, PackedRecordsEqualSeparateOnes) {
  Model model = make();
  perturb(model);
  const std::vector<int64_t> lengths = {5, 7, 1, 8, 3};
  const NamedTensors packed = packed_batch(lengths, 12, 13);
  const at::Tensor together = run_blocks(model.blocks_with("logits"), packed).at("logits").flatten(0, 1);
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    const NamedTensors alone = {
        {"tokens", packed.at("tokens").flatten().narrow(0, begin, length).unsqueeze(0)},
        {"positions", at::arange(length, at::kLong).unsqueeze(0)},
        {"segments", at::tensor({int64_t{0}, length}, at::kLong)},
        {"sample_ids", at::zeros({1}, at::kLong)},
        {"row_positions", at::arange(length, at::kLong)},
        {"record_starts", at::zeros({1, length}, at::kLong)}};
    const at::Tensor logits = run_blocks(model.blocks_with("logits"), alone).at("logits").flatten(0, 1);
    EXPECT_TRUE(at::allclose(logits, together.narrow(0, begin, length), 1e-12, 1e-12));
    begin += length;
  }
}

TEST_P(Decoder, HeadsAgree) {
  Model model = make();
  perturb(model);
  const NamedTensors batch = packed_batch({5, 7, 8, 4}, 12, 13);
  const at::Tensor logits = run_blocks(model.blocks_with("logits"), batch).at("logits");
  const NamedTensors loss = run_blocks(model.blocks_with("loss"), batch);
  const at::Tensor scores = run_blocks(model.blocks_with("log_likelihood"), batch).at("log_likelihood");
  const at::Tensor labels = batch.at("labels");
  const at::Tensor mask = labels.ne(-100);
  const at::Tensor expected =
      at::log_softmax(logits, -1).gather(2, labels.clamp_min(0).unsqueeze(2)).squeeze(2) * mask;
  EXPECT_TRUE(at::allclose(scores, expected, 1e-10, 1e-10));
  EXPECT_NEAR(loss.at("loss_sum").item<double>(), -expected.sum().item<double>(), 1e-9);
  EXPECT_EQ(loss.at("loss_weight").item<double>(), mask.sum().item<double>());
}

TEST_P(Decoder, GradientsEqualCentralDifferences) {
  Model model = make();
  perturb(model);
  const NamedTensors batch = packed_batch({5, 7, 8, 4}, 12, 13);
  const StepContext context{root_key(3), true, nullptr};
  const auto blocks = model.blocks_with("loss");
  const auto loss = [&] { return run_blocks(blocks, batch, context).at("loss_sum"); };
  loss().backward();
  uint64_t seed = 0;
  for (const auto& row : model.parameters->rows()) {
    const at::Tensor gradient = row->value.grad();
    ASSERT_TRUE(gradient.defined()) << row->spec.name;
    at::NoGradGuard no_grad;
    // Two fixed dense directions: a wrong entry of the gradient would have to be orthogonal to both.
    for (int repeat = 0; repeat < 2; ++repeat) {
      const at::Tensor direction =
          at::cos(at::arange(gradient.numel(), at::kDouble) * 2.3 + double(++seed)).view(gradient.sizes());
      const double step = 1e-6;
      row->value.add_(direction, step);
      const double above = loss().item<double>();
      row->value.sub_(direction, 2 * step);
      const double below = loss().item<double>();
      row->value.add_(direction, step);
      const double expected = (above - below) / (2 * step);
      EXPECT_NEAR((gradient * direction).sum().item<double>(), expected, 1e-6 * (1 + std::abs(expected)))
          << row->spec.name;
    }
  }
}

TEST_P(Decoder, DropoutBelongsToKeyAndSample) {
  Model model = make();
  perturb(model);
  const bool drops = model.config["residual_dropout"] > 0.0;
  const NamedTensors batch = packed_batch({12, 12}, 12, 13);
  const auto blocks = model.blocks_with("logits");
  const auto logits = [&](const NamedTensors& b, uint64_t key, bool training) {
    return run_blocks(blocks, b, {root_key(key), training, nullptr}).at("logits");
  };
  const at::Tensor first = logits(batch, 1, true);
  EXPECT_TRUE(at::equal(first, logits(batch, 1, true)));
  EXPECT_EQ(at::equal(first, logits(batch, 2, true)), !drops);
  EXPECT_EQ(at::equal(first, logits(batch, 1, false)), !drops);
  // The second row alone draws what it drew in the batch.
  NamedTensors second;
  for (const char* name : {"tokens", "positions", "sample_ids", "record_starts"})
    second[name] = batch.at(name).narrow(0, 1, 1);
  second["segments"] = at::tensor({int64_t{0}, int64_t{12}}, at::kLong);
  second["row_positions"] = batch.at("row_positions");
  EXPECT_TRUE(at::allclose(logits(second, 1, true), first.narrow(0, 1, 1), 1e-12, 1e-12));
}

// A rank that holds a part of the row draws what the whole row draws there.
TEST(StreamDropout, PartOfARowDrawsItsShare) {
  const at::Tensor x = at::ones({2, 12, 8}, at::kDouble);
  const parallel::StepContext context{root_key(3), true, nullptr};
  const auto drop = [&](const at::Tensor& part, const at::Tensor& places) {
    return stream_dropout(part, 0.5, "site", {{"sample_ids", at::arange(2)}, {"row_positions", places}},
                          context, parallel::TensorStream({}, context, {}));
  };
  const at::Tensor whole = drop(x, at::arange(12));
  for (const at::Tensor& places : {at::arange(5, 12), at::tensor({int64_t{0}, int64_t{11}, int64_t{3}})}) {
    EXPECT_TRUE(at::equal(drop(x.index_select(1, places), places), whole.index_select(1, places)));
  }
}

TEST_P(Decoder, SixteenBitStaysNearDouble) {
  Model model = make(at::kBFloat16);
  Model exact = make();
  perturb(model);
  {
    at::NoGradGuard no_grad;
    for (const auto& row : model.parameters->rows())
      exact.parameters->at(row->spec.name).value.copy_(row->value);
  }
  const NamedTensors batch = packed_batch({5, 7}, 12, 13);
  const at::Tensor low = run_blocks(model.blocks_with("logits"), batch).at("logits");
  const at::Tensor high = run_blocks(exact.blocks_with("logits"), batch).at("logits");
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  // Two layers of bf16 (8 bits): a few per cent of the logits' size.
  EXPECT_LT((low.to(at::kDouble) - high).norm().item<double>(), 0.05 * high.norm().item<double>());
}

TEST_P(Decoder, BlocksListWhatTheyUse) {
  Model model = make();
  std::set<std::string> named;
  for (const char* head : {"loss", "log_likelihood", "logits"}) {
    for (const auto& block : model.blocks_with(head)) {
      for (const std::string& name : block.parameters) {
        EXPECT_TRUE(model.parameters->contains(name)) << name;
        named.insert(name);
      }
    }
  }
  for (const auto& row : model.parameters->rows())
    EXPECT_EQ(named.count(row->spec.name), 1U) << row->spec.name;
}

TEST_P(Decoder, ConfigBuildsAnEqualModel) {
  Model model = make();
  Model again = all_models().at("decoder").build(model.config);
  EXPECT_EQ(again.config, model.config);
  ASSERT_EQ(again.parameters->rows().size(), model.parameters->rows().size());
  for (size_t i = 0; i < again.parameters->rows().size(); ++i) {
    EXPECT_EQ(again.parameters->rows()[i]->spec.name, model.parameters->rows()[i]->spec.name);
    EXPECT_EQ(again.parameters->rows()[i]->spec.shape, model.parameters->rows()[i]->spec.shape);
  }
}

}  // namespace
}  // namespace axial::models
