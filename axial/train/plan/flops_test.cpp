// SPDX-License-Identifier: Apache-2.0
// Operations of a planned step by numbers that a reader can compute, on one rank and cut along every axis;
// and those of a step that really ran.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/train/plan/plan_step.h"

namespace axial::train {
namespace {

using parallel::MeshOptions;

constexpr int64_t kLength = 96;
constexpr double kTokens = 4 * kLength;
// Of a layer: fused q, k and v (4 + 2 + 2 heads of 12), the way out, up and down; the head over 69 tokens.
constexpr double kLayer = 48 * 96 + 48 * 48 + 2 * 48 * 96, kHead = 69 * 48;
// One product over all pairs of 4 rows, 4 layers and 4 heads of 12.
constexpr double kSeen = 2.0 * 4 * 4 * 4 * 12 * (kLength * (kLength + 1) / 2);
constexpr double kSquare = 2.0 * 4 * 4 * 4 * 12 * kLength * kLength;

// Forward 2 operations per weight and token, backward 4; of attention 2 products and 4, and the logits again.
const ops::Flops kStep{6 * kTokens * (4 * kLayer + kHead), 7 * kSeen, 7 * kSquare};
const ops::Flops kLogitsAgain{0, kSeen, kSquare};
const ops::Flops kLayersAgain{2 * kTokens * 4 * kLayer, 2 * kSeen, 2 * kSquare};
static_assert(6 * kTokens * (4 * kLayer + kHead) == 156266496 && 7 * kSeen == 50061312);

StepToPlan step_on(const MeshOptions& mesh, int64_t world_size, const models::ModelRegistry& registry) {
  StepToPlan what;
  what.build = [&registry] {
    return registry.at("decoder").build({{"vocab_size", 69},
                                         {"hidden_size", 48},
                                         {"num_layers", 4},
                                         {"num_heads", 4},
                                         {"num_kv_heads", 2},
                                         {"ffn_size", 96},
                                         {"max_positions", kLength}});
  };
  what.registry = &registry;
  what.train.batch = 4;
  what.train.micro_batch = 2;
  what.parallel = mesh;
  what.parallel.replicate_vocabulary_below = 0;
  what.world_size = world_size;
  what.row_length = kLength;
  return what;
}

struct Sum {
  ops::Flops all, again;
};

Sum sum_of(const StepToPlan& what) {
  Sum sum;
  for (const RankPlan& plan : plan_step(what)) {
    const auto ranks = static_cast<double>(plan.ranks.size());
    sum.all += ranks * plan.flops;
    sum.again += ranks * plan.recomputed;
  }
  return sum;
}

MeshOptions mesh(int64_t data, int64_t pipe, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                 bool regions = false) {
  return {data, pipe, ring, ulysses, tensor, zero, regions};
}

TEST(PlannedFlops, OfAStepOnOneRank) {
  const models::ModelRegistry registry = models::all_models();
  StepToPlan what = step_on(mesh(1, 1, 1, 1, 1), 1, registry);
  const Sum plain = sum_of(what);
  EXPECT_EQ(plain.all, kStep);
  EXPECT_EQ(plain.again, kLogitsAgain);
  what.train.recompute_group = 1;
  const Sum again = sum_of(what);
  EXPECT_EQ(again.all, kStep + kLayersAgain);
  EXPECT_EQ(again.again, kLogitsAgain + kLayersAgain);
  what.train.keep_attention = true;
  const Sum kept = sum_of(what);
  EXPECT_EQ(kept.all, (kStep + ops::Flops{kLayersAgain.products, 0, 0}));
  what.train.attention_head_groups = 2;
  EXPECT_EQ(sum_of(what).all, kept.all);
}

TEST(PlannedFlops, OfAllRanksAreThoseOfOne) {
  const models::ModelRegistry registry = models::all_models();
  const std::pair<MeshOptions, int64_t> meshes[] = {
      {mesh(2, 1, 1, 1, 1), 2},    {mesh(4, 1, 1, 1, 1, 3), 4},       {mesh(1, 2, 1, 1, 1), 2},
      {mesh(1, 1, 2, 1, 1), 2},    {mesh(1, 1, 4, 1, 1, 3), 4},       {mesh(1, 1, 1, 2, 1), 2},
      {mesh(1, 1, 1, 1, 2), 2},    {mesh(1, 1, 1, 1, 2, 0, true), 2}, {mesh(2, 1, 2, 1, 2), 8},
      {mesh(1, 2, 2, 2, 1, 1), 8}, {mesh(1, 1, 3, 2, 2, 2, true), 12}};
  for (const auto& [options, world_size] : meshes) {
    SCOPED_TRACE(fmt::format("data {} pipe {} ring {} ulysses {} tensor {}", options.data, options.pipe,
                             options.ring, options.ulysses, options.tensor));
    StepToPlan what = step_on(options, world_size, registry);
    what.train.recompute_group = 1;
    const Sum sum = sum_of(what);
    EXPECT_EQ(sum.all, kStep + kLayersAgain);
    EXPECT_EQ(sum.again, kLogitsAgain + kLayersAgain);
  }
}

// What tensor ranks each do is counted on each: a head that is not cut, and key/value heads that two share.
TEST(PlannedFlops, WhatRanksRepeatIsCountedForEach) {
  const models::ModelRegistry registry = models::all_models();
  StepToPlan what = step_on(mesh(1, 1, 1, 1, 4), 4, registry);
  what.parallel.replicate_vocabulary_below = 1024;
  const double kv = 4 * 48 * 2 * 2 * 12;  // weights of k and v, of which every rank has one of two heads
  EXPECT_EQ(sum_of(what).all.products, kStep.products + 6 * kTokens * (3 * kHead + kv));
}

// A window hides pairs: every query sees itself and 5 before it, however the row is cut.
TEST(PlannedFlops, AWindowIsKnown) {
  const models::ModelRegistry registry = models::all_models();
  for (const auto& [options, world_size] : {std::pair(mesh(1, 1, 1, 1, 1), 1), {mesh(1, 1, 1, 2, 1), 2}}) {
    StepToPlan what = step_on(options, world_size, registry);
    what.build = [&registry, build = what.build] {
      nlohmann::json config = build().config;
      config["attention_mask"] = {{"window", 5}};
      return registry.at("decoder").build(config);
    };
    EXPECT_EQ(sum_of(what).all.attention,
              kStep.attention / (kLength * (kLength + 1) / 2) * (1 + 2 + 3 + 4 + 5 + (kLength - 5) * 6.0));
    EXPECT_EQ(sum_of(what).all.attention_square, kStep.attention_square);
  }
}

// The step itself on the host, rows of one record.
TEST(PlannedFlops, AreThoseOfARealStep) {
  const models::ModelRegistry registry = models::all_models();
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    StepToPlan what = step_on(mesh(1, 1, 1, 1, 1), 1, registry);
    what.train.recompute_group = 2;
    what.train.precision = precision;
    models::Model model = what.build();
    TrainingStep step(model, what.train, at::kCPU);
    std::vector<data::Batch> batches;
    for (int64_t first : {0, 2}) {
      std::vector<parallel::PackedRow> rows(2);
      for (auto& row : rows) {
        for (int64_t i = 0; i < kLength; ++i) row.tokens.push_back((i * i + first) % 69);
        row.record_starts = {0};
      }
      data::Batch batch;
      batch.tensors = parallel::SequenceLayout::whole(kLength).make_batch(rows, 3);
      batch.num_tokens = 2 * kLength;
      batch.weight = static_cast<double>(parallel::count_labels(rows));
      batches.push_back(std::move(batch));
    }
    const ops::FlopCount count;
    step.run(batches, 0);
    const Sum planned = sum_of(what);
    EXPECT_EQ(count.all(), planned.all);
    EXPECT_EQ(count.recomputed(), planned.again);
  }
}

}  // namespace
}  // namespace axial::train
