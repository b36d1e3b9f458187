// SPDX-License-Identifier: Apache-2.0
// The decoder under the step runner: any recomputation gives the bits of none, and a step runs on Meta.
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string_view>

#include "axial/core/check/check.h"
#include "axial/models/decoder/decoder_case.h"
#include "axial/parallel/step/action.h"
#include "axial/parallel/step/runner.h"

namespace axial::models {
namespace {

using parallel::NamedTensors;
using parallel::StepContext;
using parallel::StepRunner;

class DecoderStep : public ::testing::TestWithParam<testing::DecoderCase> {
 protected:
  Model make(at::Device device = at::kCPU) {
    Model model = all_models().at("decoder").build(GetParam().settings);
    model.parameters->materialize(device, at::kFloat, 11);
    return model;
  }
  static parallel::StepResult train(const Model& model, const std::vector<NamedTensors>& batches,
                                    int64_t recompute_group, bool keep_attention = false) {
    StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names);
    const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()),
                                                    static_cast<int64_t>(batches.size()),
                                                    {recompute_group, 1, 1, 0, keep_attention});
    return runner.train(plan, batches, StepContext{root_key(5), true, nullptr}, 0.5);
  }
};

INSTANTIATE_TEST_SUITE_P(Options, DecoderStep, ::testing::ValuesIn(testing::decoder_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(DecoderStep, RecomputationChangesNoBit) {
  const std::vector<NamedTensors> batches = {testing::packed_batch({5, 7, 12}, 12, 13, 1),
                                             testing::packed_batch({12, 3, 9}, 12, 13, 2)};
  Model kept = make();
  const auto expected = train(kept, batches, 0);
  for (const int64_t group : {1, 2}) {
    Model recomputed = make();
    const auto result = train(recomputed, batches, group);
    for (size_t i = 0; i < batches.size(); ++i) {
      EXPECT_TRUE(at::equal(result.loss_sums[i], expected.loss_sums[i]));
    }
    for (const auto& row : kept.parameters->rows()) {
      ASSERT_TRUE(row->grad.defined()) << row->spec.name;
      EXPECT_TRUE(at::equal(row->grad, recomputed.parameters->at(row->spec.name).grad)) << row->spec.name;
    }
  }
}

// Attention is computed once per layer and micro-batch, and no bit changes.
TEST_P(DecoderStep, KeptAttentionIsNotComputedAgain) {
  static int64_t calls;
  calls = 0;
  const auto handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& f) -> std::unique_ptr<at::ObserverContext> {
        if (std::string_view(f.name()) == "axial::attention_forward") ++calls;
        return nullptr;
      }).scopes({at::RecordScope::FUNCTION}));
  const std::vector<NamedTensors> batches = {testing::packed_batch({5, 7, 12}, 12, 13, 1),
                                             testing::packed_batch({12, 3, 9}, 12, 13, 2)};
  Model whole = make(), kept = make(), again = make();
  train(whole, batches, 0);
  const int64_t once = calls;
  EXPECT_GE(once, 2);
  train(kept, batches, 2, true);
  EXPECT_EQ(calls, 2 * once);
  train(again, batches, 2);
  EXPECT_EQ(calls, 4 * once);
  at::removeCallback(handle);
  for (const auto& row : whole.parameters->rows()) {
    EXPECT_TRUE(at::equal(row->grad, kept.parameters->at(row->spec.name).grad)) << row->spec.name;
  }
}

TEST_P(DecoderStep, EqualsPlainAutograd) {
  const NamedTensors batch = testing::packed_batch({5, 7, 12}, 12, 13);
  Model stepped = make(), plain = make();
  train(stepped, {batch}, 0);
  const StepContext context{root_key(5), true, nullptr};
  testing::run_blocks(plain.blocks_with("loss"), batch, context).at("loss_sum").mul(0.5).backward();
  for (const auto& row : plain.parameters->rows()) {
    const at::Tensor expected = row->value.grad();
    const at::Tensor got = stepped.parameters->at(row->spec.name).grad;
    // The same operations in another order of accumulation.
    EXPECT_LE((got - expected).abs().max().item<double>(), 1e-5 * (1 + expected.abs().max().item<double>()))
        << row->spec.name;
  }
}

TEST_P(DecoderStep, RunsOnMeta) {
  Model model = make(at::kMeta);
  NamedTensors batch = testing::packed_batch({5, 7, 12}, 12, 13);
  for (auto& [name, tensor] : batch) {
    if (name != "segments") tensor = tensor.to(at::kMeta);
  }
  for (const int64_t group : {0, 2}) {
    model.parameters->clear_gradients();
    const auto result = train(model, {batch}, group);
    EXPECT_TRUE(result.loss_sums.at(0).is_meta());
    for (const auto& row : model.parameters->rows()) {
      ASSERT_TRUE(row->grad.defined()) << row->spec.name;
      EXPECT_EQ(row->grad.sizes(), row->value.sizes()) << row->spec.name;
    }
  }
}

TEST_P(DecoderStep, InfersHiddenAndLogits) {
  Model model = make();
  const NamedTensors batch = testing::packed_batch({5, 7, 12}, 12, 13);
  StepRunner runner(model.blocks_with("logits"), *model.parameters, model.batch_names);
  const NamedTensors got = runner.infer(batch, {}, {"hidden", "logits"});
  EXPECT_EQ(got.at("hidden").sizes(), at::IntArrayRef({2, 12, 24}));
  EXPECT_TRUE(
      at::equal(got.at("logits"), testing::run_blocks(model.blocks_with("logits"), batch).at("logits")));
}

}  // namespace
}  // namespace axial::models
