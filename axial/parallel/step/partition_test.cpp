// SPDX-License-Identifier: Apache-2.0
// Checkpoints cut over ranks of tensor that have them alike: where, that no bit changes, what each rank holds
// less and what they send, planned and counted.
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/step/runner.h"
#include "axial/parallel/step/schedule.h"
#include "axial/parallel/step/test_chain.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

using test::Chain;
using testing::require;

Mesh tensor_mesh(int64_t size, int64_t rank) { return Mesh({{"data", 1}, {"tensor", size}}, size, rank); }

MemoryPolicy policy_of(int64_t group, bool partitions, OffloadTo to = OffloadTo::kNone) {
  MemoryPolicy policy;
  policy.recompute_group = group;
  policy.partition_activations = partitions;
  policy.offload_checkpoints = to;
  return policy;
}

TEST(StepPartition, CutsBehindTheForwardAndJoinsOneAhead) {
  EXPECT_EQ(to_string(write_training_step(5, 1, policy_of(2, true))),
            "forward mb0 g0 [0,1) keep\n"
            "forward mb0 g1 [1,3)\n"
            "cut mb0 g1 [1,3)\n"
            "forward mb0 g2 [3,4)\n"
            "cut mb0 g2 [3,4)\n"
            "forward mb0 g3 [4,5) keep\n"
            "join mb0 g2 [3,4)\n"
            "backward mb0 g3 [4,5)\n"
            "reduce mb0 g3 [4,5)\n"
            "join mb0 g1 [1,3)\n"
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

TEST(StepPartition, PartsLeaveTheDeviceAndComeBackBeforeTheyAreJoined) {
  EXPECT_EQ(to_string(write_training_step(4, 1, policy_of(1, true, OffloadTo::kHost))),
            "forward mb0 g0 [0,1) keep\n"
            "forward mb0 g1 [1,2)\n"
            "cut mb0 g1 [1,2)\n"
            "offload mb0 g1 [1,2)\n"
            "forward mb0 g2 [2,3)\n"
            "cut mb0 g2 [2,3)\n"
            "offload mb0 g2 [2,3)\n"
            "fetch mb0 g2 [2,3)\n"
            "forward mb0 g3 [3,4) keep\n"
            "join mb0 g2 [2,3)\n"
            "fetch mb0 g1 [1,2)\n"
            "backward mb0 g3 [3,4)\n"
            "reduce mb0 g3 [3,4)\n"
            "join mb0 g1 [1,2)\n"
            "recompute mb0 g2 [2,3)\n"
            "backward mb0 g2 [2,3)\n"
            "reduce mb0 g2 [2,3)\n"
            "recompute mb0 g1 [1,2)\n"
            "backward mb0 g1 [1,2)\n"
            "reduce mb0 g1 [1,2)\n"
            "backward mb0 g0 [0,1)\n"
            "reduce mb0 g0 [0,1)\n"
            "free mb0\n");
}

struct Measured {
  std::vector<at::Tensor> gradients;
  int64_t peak = 0;
  Traffic joined;
  OffloadBytes away;
};

// The same rows on all ranks; two steps, so that places are used again.
Measured run(Communicator& ranks, int64_t depth, int64_t rows, const MemoryPolicy& policy, at::Device device,
             const std::filesystem::path& folder = {}) {
  Measured out;
  std::shared_ptr<OffloadStore> store;
  if (policy.offload_checkpoints != OffloadTo::kNone) {
    store = OffloadStore::make({.to = policy.offload_checkpoints, .device = device, .folder = folder});
  }
  Chain chain(depth, device);
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
  runner.set_offload(store.get());
  const std::vector<NamedTensors> batches{chain.batch(rows, 1, device), chain.batch(rows + 1, 2, device)};
  const StepPlan plan = write_training_step(depth + 3, 2, policy);
  for (int64_t step = 0; step < 2; ++step) {
    chain.table.clear_gradients();
    ranks.clear_traffic();
    ops::MemoryCount memory;
    runner.train(plan, batches, {}, 0.3);
    out.peak = memory.peak();
  }
  const auto traffic = ranks.traffic();
  if (const auto found = traffic.find({"tensor", "all_gather"}); found != traffic.end())
    out.joined = found->second;
  for (const auto& row : chain.table.rows()) out.gradients.push_back(row->grad);
  if (store) store->settle();
  if (store) out.away = store->bytes();
  return out;
}

void check_bits(World& world) {
  const testing::TemporaryFolder folder;
  const Mesh mesh = tensor_mesh(world.size(), world.rank());
  const auto ranks = world.make_communicator(mesh);
  for (const int64_t group : {1, 2}) {
    const Measured kept = run(*ranks, 7, 33, policy_of(group, false), at::kCPU);
    for (const OffloadTo to : {OffloadTo::kNone, OffloadTo::kHost, OffloadTo::kFile}) {
      const std::string what = fmt::format("groups of {} to {}", group, static_cast<int>(to));
      const Measured real = run(*ranks, 7, 33, policy_of(group, true, to), at::kCPU, folder.path());
      for (size_t i = 0; i < kept.gradients.size(); ++i) {
        require(at::equal(kept.gradients[i], real.gradients[i]), fmt::format("{}: gradient {}", what, i));
      }
      Communicator nobody(mesh, make_recording_transport(), nullptr, {});
      const Measured planned = run(nobody, 7, 33, policy_of(group, true, to), at::kMeta);
      require(planned.peak == real.peak,
              fmt::format("{}: planned {}, counted {}", what, planned.peak, real.peak));
      require(planned.joined == real.joined && real.joined.bytes > 0, what + ": sent");
      require(planned.away.host.peak == real.away.host.peak && planned.away.file.peak == real.away.file.peak,
              what + ": outside of the device");
    }
  }
}

TEST(StepPartition, NoBitChangesAndAPlanCountsTheSame) {
  EXPECT_EQ(testing::failures(testing::run_ranks(2, check_bits)), "");
}
TEST(StepPartition, NoBitChangesOnFourRanks) {
  EXPECT_EQ(testing::failures(testing::run_ranks(4, check_bits)), "");
}

// 24 blocks, each its own group, of 23 of which the inputs wait: a quarter of each stays, but for what the
// groups at work hold. Each is sent once, three quarters of what there is.
TEST(StepPartition, EachOfFourRanksHoldsAQuarter) {
  const int64_t rows = 1 << 18, tensor = rows * test::kWidth * 8;
  const auto measured = [&](int64_t depth, const MemoryPolicy& policy) {
    Communicator ranks(tensor_mesh(4, 1), make_recording_transport(), nullptr, {});
    return run(ranks, depth, rows, policy, at::kMeta);
  };
  const auto growth = [&](const MemoryPolicy& policy) {
    return measured(24, policy).peak - measured(12, policy).peak;
  };
  const int64_t small = 12 * 72 * 8;  // gradients of 12 blocks
  EXPECT_NEAR(static_cast<double>(growth(policy_of(1, false))), static_cast<double>(12 * tensor + small),
              1 << 14);
  EXPECT_NEAR(static_cast<double>(growth(policy_of(1, true))), static_cast<double>(3 * tensor + small),
              1 << 14);
  const Measured cut = measured(24, policy_of(1, true));
  const int64_t joined = 24 * test::kWidth * 8 * (2 * rows + 1);  // blocks 2 to 24 and the head's input
  EXPECT_LE(cut.joined.bytes, joined * 3 / 4 + 24 * 64);
  EXPECT_GE(cut.joined.bytes, (joined - test::kWidth * 8 * (2 * rows + 1)) * 3 / 4);
  // Their parts outside of the device are quarters too.
  const Measured away = measured(24, policy_of(1, true, OffloadTo::kHost));
  EXPECT_LE(away.away.host.peak, 24 * (tensor / 4 + 2 * 4096));
  EXPECT_GE(away.away.host.peak, 22 * (tensor / 4));
}

TEST(StepPartition, PlansThatLoseAPartAreRefused) {
  const Chain chain(4);
  const Stream stream = build_stream(chain.blocks, Chain::batch_names());
  const StepPlan whole = write_training_step(7, 1, policy_of(2, true));
  const auto error_without = [&](ActionKind kind) {
    StepPlan plan = whole;
    plan.actions.erase(std::find_if(plan.actions.begin(), plan.actions.end(),
                                    [&](const Action& a) { return a.kind == kind; }));
    try {
      schedule_plan(stream, plan, 1, PlanUse::kTraining);
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(error_without(ActionKind::kJoin),
            "[step_plan] 'recompute mb0 g3 [5,6)'; expected a join before it");
  EXPECT_EQ(error_without(ActionKind::kCut), "[step_plan] 'join mb0 g1 [1,3)'; expected a cut before it");
}

}  // namespace
}  // namespace axial::parallel
