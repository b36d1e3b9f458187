// SPDX-License-Identifier: Apache-2.0
// The mean over rows does not depend on the batch, weighs tokens, and reads exactly the rows asked for.
#include "axial/train/evaluate/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "axial/train/testing/tiny_model.h"

namespace axial::train {
namespace {

TEST(Evaluate, IsTheTokenWeightedMeanForAnyBatch) {
  models::Model model = testing::build_tiny(nlohmann::json::object());
  model.parameters->materialize(at::kCPU, at::kDouble, 1);
  parallel::StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names);
  const testing::TinySource source(7);
  const Evaluation all = evaluate(runner, source, {});
  EXPECT_EQ(all.rows, 7);
  EXPECT_EQ(all.weight, 77);
  EXPECT_EQ(all.tokens, 84);
  EXPECT_DOUBLE_EQ(all.perplexity(), std::exp(all.loss));
  for (const int64_t batch : {1, 2, 3, 7, 100})
    EXPECT_NEAR(evaluate(runner, source, {batch}).loss, all.loss, 1e-12);
  // A part is spread evenly over the rows, whatever the batch.
  const std::pair<int64_t, std::vector<int64_t>> parts[] = {
      {1, {0}}, {3, {0, 2, 4}}, {5, {0, 1, 2, 4, 5}}, {7, {0, 1, 2, 3, 4, 5, 6}}};
  for (const auto& [max_rows, chosen] : parts) {
    double sum = 0;
    for (const int64_t row : chosen) {
      sum += runner.infer(source.rows(row, 1).tensors, {}, {"loss_sum"}).at("loss_sum").item<double>();
    }
    for (const int64_t batch : {1, 2, 100}) {
      const Evaluation part = evaluate(runner, source, {batch, max_rows});
      EXPECT_EQ(part.rows, max_rows);
      EXPECT_NEAR(part.loss, sum / static_cast<double>(11 * max_rows), 1e-12) << max_rows;
    }
  }
}

TEST(Evaluate, StopsWhenAskedAndRefusesNothing) {
  models::Model model = testing::build_tiny(nlohmann::json::object());
  model.parameters->materialize(at::kCPU, at::kFloat, 1);
  parallel::StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names);
  const testing::TinySource source(7);
  int64_t done = 0;
  EvaluateOptions options{2, 0, [&](int64_t rows) { done = rows; }, [&] { return done >= 4; }};
  EXPECT_EQ(evaluate(runner, source, options).rows, 4);
  // Before the first pass: nothing was predicted, and that is no fault of the rows.
  const Evaluation none = evaluate(runner, source, {2, 0, {}, [] { return true; }});
  EXPECT_TRUE(none.stopped);
  EXPECT_EQ(none.rows, 0);
  EXPECT_FALSE(evaluate(runner, source, {}).stopped);
  EXPECT_THROW(evaluate(runner, testing::TinySource(3, 1), {}), ValueError);  // one token predicts nothing
  EXPECT_THROW(evaluate(runner, source, {0}), ValueError);
}

}  // namespace
}  // namespace axial::train
