// SPDX-License-Identifier: Apache-2.0
// Inference over rows that are longer than a model was made for, or too long to hold the features of: which
// positions take them, tiles, progress, and the bytes of 16-bit weights.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/train/infer/score.h"
#include "axial/train/plan/plan_step.h"

namespace axial::train {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMadeFor = 16;

models::Model declared(const std::string& position, int64_t max_positions = kMadeFor) {
  return models::all_models().at("decoder").build({{"vocab_size", 69},
                                                   {"hidden_size", 32},
                                                   {"num_layers", 2},
                                                   {"num_heads", 2},
                                                   {"max_positions", max_positions},
                                                   {"position", position},
                                                   {"init_std", 0.3}});
}

models::Model made(const std::string& position, int64_t max_positions = kMadeFor) {
  models::Model model = declared(position, max_positions);
  model.parameters->materialize(at::kCPU, at::kDouble, 5, /*trains=*/false);
  return model;
}

std::vector<int32_t> record(int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>((i * i + 3 * i) % 69));
  return ids;
}

double score_of(const models::Model& model, WindowOptions options, int64_t tokens) {
  double score = 0;
  Scorer scorer(model, options, [&](const Score& s) { score = s.log_likelihood; });
  scorer.add("record", record(tokens));
  scorer.finish();
  return score;
}

// Weights that know no length: a model made for all of the row has the same.
TEST(LongRows, AlibiAndRotationsTakeAnyLength) {
  for (const char* position : {"alibi", "rotary"}) {
    WindowOptions whole;
    whole.window = 3 * kMadeFor;
    const double longer = score_of(made(position), whole, 40);
    EXPECT_EQ(longer, score_of(made(position, 64), {}, 40)) << position;
    EXPECT_NE(longer, score_of(made(position), {}, 40)) << position;  // in windows of what it was made for
  }
}

TEST(LongRows, LearnedPositionsEnd) {
  WindowOptions longer;
  longer.window = kMadeFor + 1;
  try {
    score_of(made("learned"), longer, 40);
    FAIL() << "a table of 16 positions took a row of 17";
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rows of 17 tokens; expected at most the 16 positions"));
  }
  EXPECT_NO_THROW(check_input_length(made("learned"), kMadeFor));
}

TEST(LongRows, TilesGiveTheSameInLess) {
  const models::Model model = made("alibi");
  const auto with_tiles = [&](int64_t tile_tokens) {
    WindowOptions options;
    options.window = 512;
    options.tile_tokens = tile_tokens;
    const ops::MemoryCount memory;
    const double score = score_of(model, options, 512);
    return std::pair(score, memory.peak());
  };
  const auto [whole, much] = with_tiles(0);
  const auto [tiled, less] = with_tiles(64);
  EXPECT_NEAR(tiled, whole, 1e-9 * std::abs(whole));  // sums of fp64 in another order
  EXPECT_LT(less, much - 512 * 64 * 8);               // half of the features [512, 128] are never there
}

TEST(LongRows, ActionsAreTold) {
  WindowOptions options;
  int64_t calls = 0, all = 0;
  options.on_action = [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++calls);
    all = total;
  };
  score_of(made("alibi"), options, 12);
  EXPECT_GT(calls, 4);  // embedding, layers, norm, head
  EXPECT_EQ(calls, all);
}

TEST(LongRows, WeightsOf16BitsHaveNoOthersBesideThem) {
  models::Model model = declared("learned");
  model.parameters->materialize(at::kCPU, at::kBFloat16, 5, /*trains=*/false);
  for (const auto& row : model.parameters->rows()) EXPECT_TRUE(row->companions.empty()) << row->spec.name;
  const models::ModelRegistry registry = models::all_models();
  StepToPlan what;
  what.build = [] { return declared("learned"); };
  what.registry = &registry;
  what.train.precision = Precision::kBf16;
  what.row_length = kMadeFor;
  what.work = PlannedWork::kScore;
  int64_t told = 0;
  what.on_action = [&](int64_t, int64_t) { ++told; };
  const std::vector<RankPlan> plans = plan_step(what);
  EXPECT_EQ(plans[0].resident_bytes, 2 * model.parameters->num_elements());
  EXPECT_GT(told, 4);
}

}  // namespace
}  // namespace axial::train
