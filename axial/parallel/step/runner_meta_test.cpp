// SPDX-License-Identifier: Apache-2.0
// A whole step without data, its bytes counted: nothing is left behind and recompute lowers the peak.
#include <gtest/gtest.h>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/step/runner.h"
#include "axial/parallel/step/test_chain.h"

namespace axial::parallel {
namespace {

using test::Chain;

struct Bytes {
  int64_t peak = 0;  // above parameters and batch
  int64_t left = 0;
};

Bytes measure(int64_t depth, int64_t rows, const MemoryPolicy& policy, int64_t micro_batches) {
  ops::MemoryCount counter;
  Bytes bytes;
  {
    Chain chain(depth, at::kMeta, at::kFloat);
    StepRunner runner(chain.blocks, chain.table, Chain::batch_names());
    const std::vector<NamedTensors> batches(static_cast<size_t>(micro_batches),
                                            chain.batch(rows, 1, at::kMeta, at::kFloat));
    const StepPlan plan = write_training_step(depth + 3, micro_batches, policy);
    runner.train(plan, batches, {}, 1.0);  // gradients are there from now on
    const int64_t before = counter.live();
    counter.reset_peak();
    runner.train(plan, batches, {}, 1.0);
    bytes.peak = counter.peak() - before;
    bytes.left = counter.live() - before;
  }
  EXPECT_EQ(counter.live(), 0);
  return bytes;
}

TEST(StepRunnerMeta, RunsAWholeStepAndLeavesNothing) {
  for (const int64_t group : {0, 1, 3}) EXPECT_EQ(measure(6, 1 << 20, {group, 1, 1}, 2).left, 0);
}

// Tanh, product and sum of a middle block keep several tensors of rows x width; recompute keeps one per
// group and rebuilds the others a group at a time.
TEST(StepRunnerMeta, RecomputeLowersThePeak) {
  const int64_t rows = 1 << 20;
  const int64_t tensor = rows * test::kWidth * 4;
  const int64_t kept = measure(24, rows, {}, 1).peak;
  const int64_t single = measure(24, rows, {1, 1, 1}, 1).peak;
  const int64_t grouped = measure(24, rows, {5, 1, 1}, 1).peak;
  const int64_t all = measure(24, rows, {100, 1, 1}, 1).peak;
  EXPECT_GT(kept, 24 * 3 * tensor);
  EXPECT_LT(single, (24 + 10) * tensor);
  EXPECT_LT(grouped, single);
  EXPECT_LT(grouped, (5 + 5 * 4 + 8) * tensor);
  EXPECT_GT(all, grouped);
  EXPECT_LT(all, kept + 2 * tensor);
}

// What one step adds to the gradients of the step before is summed beside them: 40 + 64 + 8 * 72 elements.
TEST(StepRunnerMeta, MicroBatchesDoNotAddUp) {
  const int64_t one = measure(8, 1 << 20, {2, 1, 1}, 1).peak;
  EXPECT_LE(measure(8, 1 << 20, {2, 1, 1}, 4).peak, one + 680 * 4 + 1024);
}

// Forward only: two tensors between blocks and the workings of one block, whatever the depth.
TEST(StepRunnerMeta, InferenceHoldsOneBlock) {
  const auto peak = [](int64_t depth) {
    ops::MemoryCount counter;
    Chain chain(depth, at::kMeta, at::kFloat);
    StepRunner runner(chain.blocks, chain.table, Chain::batch_names());
    const NamedTensors batch = chain.batch(1 << 20, 1, at::kMeta, at::kFloat);
    const int64_t before = counter.live();
    counter.reset_peak();
    runner.infer(batch, {}, {"loss_sum"});
    return counter.peak() - before;
  };
  EXPECT_EQ(peak(3), peak(30));
}

}  // namespace
}  // namespace axial::parallel
