// SPDX-License-Identifier: Apache-2.0
// Checkpoints that leave the device: where, which, that no bit changes, and what the device holds less.
#include <gtest/gtest.h>

#include <tuple>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/step/offload_actions.h"
#include "axial/parallel/step/runner.h"
#include "axial/parallel/step/schedule.h"
#include "axial/parallel/step/simulate.h"
#include "axial/parallel/step/test_chain.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

using test::Chain;

MemoryPolicy policy_of(int64_t group, int64_t keep_first = 1, OffloadTo to = OffloadTo::kHost) {
  MemoryPolicy policy;
  policy.recompute_group = group;
  policy.keep_first = keep_first;
  policy.offload_checkpoints = to;
  return policy;
}

TEST(StepOffload, LeavesBehindTheForwardAndComesBackOneAhead) {
  EXPECT_EQ(to_string(write_training_step(5, 1, policy_of(2))),
            "forward mb0 g0 [0,1) keep\n"
            "forward mb0 g1 [1,3)\n"
            "offload mb0 g1 [1,3)\n"
            "forward mb0 g2 [3,4)\n"
            "offload mb0 g2 [3,4)\n"
            "forward mb0 g3 [4,5) keep\n"
            "fetch mb0 g2 [3,4)\n"
            "backward mb0 g3 [4,5)\n"
            "reduce mb0 g3 [4,5)\n"
            "fetch mb0 g1 [1,3)\n"
            "recompute mb0 g2 [3,4)\n"
            "backward mb0 g2 [3,4)\n"
            "reduce mb0 g2 [3,4)\n"
            "recompute mb0 g1 [1,3)\n"
            "backward mb0 g1 [1,3)\n"
            "reduce mb0 g1 [1,3)\n"
            "backward mb0 g0 [0,1)\n"
            "reduce mb0 g0 [0,1)\n"
            "free mb0\n");
}

// The last rank of 1F1B turns round at once: nothing would be gained.
TEST(StepOffload, NothingLeavesForAMoment) {
  MemoryPolicy policy = policy_of(4, 0);
  policy.keep_last = 0;
  const Stages stages{{{0, 4}, {4, 8}}, 2};
  const std::string first = to_string(write_training_step(stages, 0, 4, policy));
  const std::string last = to_string(write_training_step(stages, 1, 4, policy));
  EXPECT_NE(first.find("offload mb1"), std::string::npos);
  EXPECT_EQ(last.find("offload"), std::string::npos);
}

std::vector<std::string> moved_by(const Chain& chain, const StepPlan& plan, ActionKind kind) {
  const Stream stream = build_stream(chain.blocks, Chain::batch_names());
  const auto moves = find_moves(stream, plan);
  std::vector<std::string> out;
  for (size_t i = 0; i < plan.actions.size(); ++i) {
    if (plan.actions[i].kind != kind) continue;
    std::string text = "g" + std::to_string(plan.actions[i].group);
    for (const int64_t v : moves[i]) text += " " + stream.values[static_cast<size_t>(v)].name;
    out.push_back(text);
  }
  return out;
}

using Texts = std::vector<std::string>;

// Blocks: embed, four of a chain, head, loss. A skip leaves with its last reader; what the graph of the first
// block holds does not leave at all.
TEST(StepOffload, ASkipLeavesWithItsLastReader) {
  const Chain chain(4);
  EXPECT_EQ(moved_by(chain, write_training_step(7, 1, policy_of(2)), ActionKind::kOffload),
            (Texts{"g1", "g2 h", "g3 h"}));
  const StepPlan plan = write_training_step(7, 1, policy_of(2, 0));  // [0,2) [2,4) [4,6) [6,7)
  EXPECT_EQ(moved_by(chain, plan, ActionKind::kOffload), (Texts{"g0", "g1 h", "g2 e shift h"}));
  EXPECT_EQ(moved_by(chain, plan, ActionKind::kFetch), (Texts{"g2 e shift h", "g1 h", "g0"}));
}

TEST(StepOffload, PlansThatLoseACheckpointAreRefused) {
  const Chain chain(4);
  const Stream stream = build_stream(chain.blocks, Chain::batch_names());
  const StepPlan whole = write_training_step(7, 1, policy_of(2));
  const auto error_without = [&](ActionKind kind) {
    StepPlan plan = whole;
    const auto found = std::find_if(plan.actions.begin(), plan.actions.end(),
                                    [&](const Action& a) { return a.kind == kind; });
    plan.actions.erase(found);
    try {
      schedule_plan(stream, plan, 1, PlanUse::kTraining);
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(error_without(ActionKind::kFetch),
            "[step_plan] 'recompute mb0 g3 [5,6)'; expected a fetch before it");
  EXPECT_EQ(error_without(ActionKind::kOffload),
            "[step_plan] 'fetch mb0 g1 [1,3)'; expected an offload before it");
  StepPlan early = whole;
  std::swap(early.actions[1], early.actions[2]);  // before the forward
  EXPECT_THROW(schedule_plan(stream, early, 1, PlanUse::kTraining), ValueError);
  StepRunner runner(chain.blocks, const_cast<ParameterTable&>(chain.table), Chain::batch_names());
  EXPECT_THROW(runner.train(whole, {chain.batch(3, 1)}, {}, 1.0), ValueError);  // nowhere to go
}

struct Measured {
  std::vector<at::Tensor> gradients;
  int64_t peak = 0;
  OffloadBytes away;
};

Measured run(int64_t depth, int64_t rows, int64_t micro_batches, const MemoryPolicy& policy,
             at::Device device, const std::filesystem::path& folder) {
  Measured out;
  std::shared_ptr<OffloadStore> store;
  if (policy.offload_checkpoints != OffloadTo::kNone) {
    store = OffloadStore::make({.to = policy.offload_checkpoints, .device = device, .folder = folder});
  }
  Chain chain(depth, device);
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names());
  runner.set_offload(store.get());
  std::vector<NamedTensors> batches;
  for (int64_t m = 0; m < micro_batches; ++m) {
    batches.push_back(chain.batch(rows + m, static_cast<uint64_t>(m), device));
  }
  const StepPlan plan = write_training_step(depth + 3, micro_batches, policy);
  for (int64_t step = 0; step < 2; ++step) {  // places are used again
    chain.table.clear_gradients();
    ops::MemoryCount memory;
    runner.train(plan, batches, {}, 0.3);
    out.peak = memory.peak();
  }
  for (const auto& row : chain.table.rows()) out.gradients.push_back(row->grad);
  if (store) store->settle();
  if (store) out.away = store->bytes();
  return out;
}

TEST(StepOffload, NoBitChangesAndAPlanCountsTheSame) {
  const testing::TemporaryFolder folder;
  const std::vector<std::tuple<int64_t, int64_t, int64_t>> cases{
      {1, 1, 1}, {1, 0, 3}, {2, 1, 2}, {3, 0, 2}, {4, 0, 2}};
  for (const auto& [group, keep_first, micro_batches] : cases) {
    const auto kept = run(7, 33, micro_batches, policy_of(group, keep_first, OffloadTo::kNone), at::kCPU, {});
    for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
      SCOPED_TRACE(fmt::format("group {} keep_first {} to {}", group, keep_first, static_cast<int>(to)));
      const MemoryPolicy policy = policy_of(group, keep_first, to);
      const Measured real = run(7, 33, micro_batches, policy, at::kCPU, folder.path());
      for (size_t i = 0; i < kept.gradients.size(); ++i) {
        EXPECT_TRUE(at::equal(real.gradients[i], kept.gradients[i])) << i;
      }
      const Measured planned = run(7, 33, micro_batches, policy, at::kMeta, {});
      EXPECT_EQ(planned.peak, real.peak);
      EXPECT_EQ(planned.away.host.peak, real.away.host.peak);
      EXPECT_EQ(planned.away.file.peak, real.away.file.peak);
      EXPECT_EQ(to == OffloadTo::kFile ? real.away.file.live : real.away.host.live, 0);
      EXPECT_GT(to == OffloadTo::kFile ? real.away.file.peak : real.away.host.peak, 0);
    }
  }
}

// 24 blocks, each its own group: 23 inputs leave, all but that of the first, which a graph holds. What is
// left of them on the device does not grow with the depth.
TEST(StepOffload, TheDeviceHoldsWhatDidNotMove) {
  const int64_t rows = 1 << 20, tensor = rows * test::kWidth * 8;
  const auto peak = [&](int64_t depth, OffloadTo to) {
    return run(depth, rows, 1, policy_of(1, 1, to), at::kMeta, {});
  };
  const Measured kept = peak(24, OffloadTo::kNone), moved = peak(24, OffloadTo::kHost);
  EXPECT_EQ(moved.away.host.peak, 24 * tensor);  // of blocks 2 to 24, and of the head
  const int64_t small = 24 * 72 * 8 * 2;         // gradients of 24 blocks, twice
  EXPECT_LE(moved.peak, kept.peak - 20 * tensor + small);
  EXPECT_LE(moved.peak, peak(12, OffloadTo::kHost).peak + small);
  EXPECT_GT(kept.peak, peak(12, OffloadTo::kNone).peak + 11 * tensor);
}

TEST(StepOffload, ASimulationHoldsWhatDidNotMove) {
  PlanCosts costs;
  costs.graph_bytes = [](const BlockRange&) { return int64_t{10}; };
  costs.border_bytes = [](const BlockRange&) { return int64_t{1}; };
  const auto peak = [&](OffloadTo to) {
    return simulate_pipeline({write_training_step(22, 1, policy_of(1, 1, to))}, costs).peak_bytes[0];
  };
  EXPECT_EQ(peak(OffloadTo::kNone), 2 * 10 + 20);
  EXPECT_EQ(peak(OffloadTo::kHost), 2 * 10 + 1);
}

}  // namespace
}  // namespace axial::parallel
