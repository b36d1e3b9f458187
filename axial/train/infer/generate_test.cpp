// SPDX-License-Identifier: Apache-2.0
// Generation with a cache is the model run in full; draws depend on seed, sequence and position alone.
#include "axial/train/infer/generate.h"

#include <gtest/gtest.h>

#include <set>

#include "axial/parallel/step/runner.h"
#include "axial/train/testing/tiny_model.h"

namespace axial::train {
namespace {

models::Model make_model() {
  models::Model model = testing::build_tiny(nlohmann::json::object());
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  return model;
}

std::vector<Generated> run(models::Model& model, const GenerateIds& ids, const GenerateOptions& options) {
  std::vector<Generated> out;
  generate(model, ids, options, [&](const Generated& sequence) { out.push_back(sequence); });
  return out;
}

// Logits after the last of `ids`, computed without a cache.
at::Tensor logits_after(models::Model& model, const std::vector<int32_t>& ids) {
  parallel::StepRunner runner(model.blocks_with("logits"), *model.parameters, model.batch_names);
  const at::Tensor tokens = at::tensor(ids, at::kInt).to(at::kLong).unsqueeze(0);
  const auto out = runner.infer({{"tokens", tokens},
                                 {"labels", tokens},
                                 {"positions", tokens},
                                 {"segments", tokens},
                                 {"sample_ids", tokens},
                                 {"row_positions", tokens}},
                                {}, {"logits"});  // the tiny model reads tokens alone
  return out.at("logits").select(1, tokens.size(1) - 1).squeeze(0).to(at::kFloat);
}

const GenerateIds kIds{{1, 5}, {0, 1, 2, 3}, {2}, {7}};

TEST(Generate, CachedDecodingIsTheFullModel) {
  models::Model model = make_model();
  GenerateOptions options;
  options.count = 6;
  options.max_tokens = 10;
  options.batch = 4;
  options.seed = 2;
  for (const Generated& sequence : run(model, kIds, options)) {
    std::vector<int32_t> ids = kIds.prompt;
    double log_likelihood = 0;
    const auto add = [&](int32_t id) {
      log_likelihood += at::log_softmax(logits_after(model, ids), -1)[id].item<double>();
      ids.push_back(id);
    };
    for (const int32_t id : sequence.ids) add(id);
    if (sequence.stop == Generated::Stop::kEnd) add(2);
    EXPECT_NEAR(sequence.log_likelihood, log_likelihood, 1e-5) << sequence.index;
  }
}

TEST(Generate, TemperatureZeroTakesTheMostLikely) {
  models::Model model = make_model();
  GenerateOptions options;
  options.max_tokens = 6;
  options.sampling.temperature = 0;
  const GenerateIds ids{{1, 5}, {0, 1, 2, 3}, {}, {}};
  const Generated sequence = run(model, ids, options).front();
  std::vector<int32_t> all = ids.prompt;
  ASSERT_EQ(sequence.ids.size(), 6u);
  for (const int32_t id : sequence.ids) {
    at::Tensor logits = logits_after(model, all);
    for (const int32_t special : ids.special) logits[special] = -1e9;
    EXPECT_EQ(logits.argmax().item<int64_t>(), id);
    all.push_back(id);
  }
}

TEST(Generate, BatchSizeAndNeighboursDoNotMatterSeedsDo) {
  models::Model model = make_model();
  GenerateOptions options;
  options.count = 9;
  options.max_tokens = 12;
  std::vector<std::vector<Generated>> runs;
  for (const int64_t batch : {1, 2, 4, 9, 50}) {
    options.batch = batch;
    runs.push_back(run(model, kIds, options));
    ASSERT_EQ(runs.back().size(), 9u);
    for (size_t i = 0; i < 9; ++i) {
      EXPECT_EQ(runs.back()[i].index, static_cast<int64_t>(i));
      EXPECT_EQ(runs.back()[i].ids, runs.front()[i].ids) << batch;
      EXPECT_EQ(runs.back()[i].stop, runs.front()[i].stop);
    }
  }
  options.count = 3;
  EXPECT_EQ(run(model, kIds, options)[2].ids, runs.front()[2].ids);
  options.count = 9;
  options.seed = 1;
  const auto other = run(model, kIds, options);
  int different = 0;
  for (size_t i = 0; i < 9; ++i) different += other[i].ids != runs.front()[i].ids;
  EXPECT_GT(different, 6);
}

TEST(Generate, StopsAreKeptEndsAreNotAndSpecialTokensNeverAppear) {
  models::Model model = make_model();
  GenerateOptions options;
  options.count = 200;
  options.max_tokens = 14;
  options.min_tokens = 3;
  std::set<Generated::Stop> seen;
  for (const Generated& sequence : run(model, kIds, options)) {
    seen.insert(sequence.stop);
    ASSERT_GE(sequence.ids.size(), 3u);
    for (size_t i = 0; i < sequence.ids.size(); ++i) {
      const int32_t id = sequence.ids[i];
      ASSERT_TRUE(id > 3 && id < testing::kVocabulary);
      const bool last = i + 1 == sequence.ids.size();
      ASSERT_EQ(id == 7, last && sequence.stop == Generated::Stop::kStopToken);
    }
    ASSERT_EQ(sequence.ids.size() == 14u || sequence.stop != Generated::Stop::kLength, true);
  }
  EXPECT_EQ(seen.size(), 3u);
}

TEST(Generate, WhatDoesNotFitIsRefused) {
  models::Model model = make_model();
  GenerateOptions options;
  options.max_tokens = 15;  // with a prompt of 2 one more than the 16 positions
  EXPECT_THROW(run(model, kIds, options), ValueError);
  options.max_tokens = 4;
  EXPECT_THROW(run(model, GenerateIds{}, options), ValueError);
  options.min_tokens = 5;
  EXPECT_THROW(run(model, kIds, options), ValueError);
  options.min_tokens = 0;
  options.count = 0;
  EXPECT_THROW(run(model, kIds, options), ValueError);
  options.count = 1;
  EXPECT_THROW(run(model, GenerateIds{{5}, {}, {99}, {}}, options), ValueError);
}

}  // namespace
}  // namespace axial::train
