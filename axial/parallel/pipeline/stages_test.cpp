// SPDX-License-Identifier: Apache-2.0
// The balanced cut, what ranks then hold, and the orders of work with their idle time and memory.
#include "axial/parallel/pipeline/stages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "axial/core/check/check.h"
#include "axial/parallel/step/simulate.h"

namespace axial::parallel {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Stages, TheLargestStageIsAsSmallAsCanBe) {
  using Ranges = std::vector<BlockRange>;
  EXPECT_EQ(Stages::balanced({1, 1, 1, 1, 1}, 2, 1).ranges, (Ranges{{0, 2}, {2, 5}}));
  EXPECT_EQ(Stages::balanced({9, 1, 1, 1, 9}, 3, 1).ranges, (Ranges{{0, 1}, {1, 4}, {4, 5}}));
  EXPECT_EQ(Stages::balanced({1, 2, 3, 4, 5, 6}, 2, 1).ranges, (Ranges{{0, 4}, {4, 6}}));
  EXPECT_EQ(Stages::balanced({0, 0, 0}, 3, 1).ranges, (Ranges{{0, 1}, {1, 2}, {2, 3}}));
  const Stages interleaved = Stages::balanced(std::vector<int64_t>(8, 1), 2, 2);
  EXPECT_EQ(interleaved.ranges, (Ranges{{0, 2}, {2, 4}, {4, 6}, {6, 8}}));
  EXPECT_EQ(interleaved.rank_of_block(3), 1);
  EXPECT_EQ(interleaved.rank_of_block(4), 0);
  EXPECT_EQ(interleaved.without_last_block().ranges.back(), (BlockRange{6, 7}));
  EXPECT_EQ(Stages::balanced({0, 0, 0}, 3, 1).without_last_block().size(), 2);
  EXPECT_THAT(error_of([] { Stages::balanced({1, 1, 1}, 2, 2); }), HasSubstr("blocks (3), got 4"));
  EXPECT_THROW(Stages::balanced({1}, 0, 1), ValueError);
  EXPECT_THROW(interleaved.rank_of_block(8), ValueError);
}

TEST(Stages, RanksHoldTheParametersOfTheirBlocks) {
  const std::vector<std::vector<std::string>> names{{"embed"}, {"a"}, {"b"}, {"head"}};
  const Stages stages{{{0, 2}, {2, 3}, {3, 4}}, 3};
  for (int64_t rank = 0; rank < 3; ++rank) {
    ParameterTable table;
    for (const char* name : {"embed", "a", "b", "unread"}) {
      table.declare({name, {6, 4}, Initializer::normal(1)});
    }
    table.alias("head", "embed");
    table.at("embed").shared_rows = {{2, 4, 5}};
    place_stages(table, names, stages, Mesh({{"pipe", 3}}, 3, rank));
    table.materialize(at::kCPU, at::kFloat, 1);
    const auto rows = [&](const char* name) { return table.at(name).value.size(0); };
    EXPECT_EQ(rows("embed"), rank == 1 ? 0 : 6);
    EXPECT_EQ(rows("a"), rank == 0 ? 6 : 0);
    EXPECT_EQ(rows("b"), rank == 1 ? 6 : 0);
    EXPECT_EQ(rows("unread"), rank == 2 ? 6 : 0);
    EXPECT_EQ(table.at("embed").stage_ranks, (std::vector<int64_t>{0, 2}));
    EXPECT_EQ(table.at("a").sharded_axes, Axes{"pipe"});
    if (rank == 1) continue;
    const auto& shared = table.at("embed").shared_rows;  // by two stages, and by five ranks more
    ASSERT_EQ(shared.size(), 3u);
    EXPECT_EQ(shared[0].copies * 100 + shared[0].end, 202);
    EXPECT_EQ(shared[1].copies * 100 + shared[1].end, 1004);
    EXPECT_EQ(shared[2].copies * 100 + shared[2].end, 206);
  }
  ParameterTable table;
  table.declare({"scale", {}, Initializer::ones()});
  EXPECT_THAT(error_of([&] {
                place_stages(table, {{}, {}, {}, {}}, stages, Mesh({{"pipe", 3}}, 3, 0));
              }),
              HasSubstr("'scale'"));
  EXPECT_THAT(error_of([&] {
                place_stages(table, {{}}, stages, Mesh({{"pipe", 3}}, 3, 0));
              }),
              HasSubstr("4 blocks"));
}

std::vector<StepPlan> plans_of(int64_t ranks, int64_t per_rank, int64_t micro_batches, PipeSchedule schedule,
                               const MemoryPolicy& policy = {}) {
  const Stages stages =
      Stages::balanced(std::vector<int64_t>(static_cast<size_t>(ranks * per_rank), 1), ranks, per_rank);
  std::vector<StepPlan> plans;
  for (int64_t r = 0; r < ranks; ++r) {
    plans.push_back(write_training_step(stages, r, micro_batches, policy, schedule));
  }
  return plans;
}

// A backward takes twice a forward; every block holds one byte per micro-batch.
PipelineRun simulated(const std::vector<StepPlan>& plans) {
  PlanCosts costs;
  costs.time = [](ActionKind kind, const BlockRange&) { return kind == ActionKind::kBackward ? 2.0 : 1.0; };
  costs.graph_bytes = [](const BlockRange&) { return 1; };
  return simulate_pipeline(plans, costs);
}

TEST(PipeSchedules, IdleTimeIsThatOfTheFormulas) {
  const auto bubble = [](int64_t p, int64_t v, int64_t m, PipeSchedule schedule) {
    return simulated(plans_of(p, v, m, schedule)).bubble_fraction();
  };
  using enum PipeSchedule;
  // (P - 1) / (M + P - 1)
  EXPECT_DOUBLE_EQ(bubble(2, 1, 4, kGPipe), 1.0 / 5);
  EXPECT_DOUBLE_EQ(bubble(2, 1, 4, kOneForwardOneBackward), 1.0 / 5);
  EXPECT_DOUBLE_EQ(bubble(4, 1, 8, kGPipe), 3.0 / 11);
  EXPECT_DOUBLE_EQ(bubble(4, 1, 8, kOneForwardOneBackward), 3.0 / 11);
  EXPECT_DOUBLE_EQ(bubble(4, 1, 3, kOneForwardOneBackward), 3.0 / 6);
  EXPECT_DOUBLE_EQ(bubble(8, 1, 13, kOneForwardOneBackward), 7.0 / 20);
  // (P - 1) / (v M + P - 1)
  EXPECT_DOUBLE_EQ(bubble(2, 2, 4, kOneForwardOneBackward), 1.0 / 9);
  EXPECT_DOUBLE_EQ(bubble(4, 2, 8, kOneForwardOneBackward), 3.0 / 19);
  EXPECT_DOUBLE_EQ(bubble(4, 3, 8, kOneForwardOneBackward), 3.0 / 27);
  EXPECT_DOUBLE_EQ(bubble(1, 1, 5, kOneForwardOneBackward), 0);
}

TEST(PipeSchedules, OneForwardOneBackwardHoldsAsManyMicroBatchesAsStagesFollow) {
  using enum PipeSchedule;
  EXPECT_EQ(simulated(plans_of(4, 1, 8, kOneForwardOneBackward)).peak_bytes,
            (std::vector<int64_t>{4, 3, 2, 1}));
  EXPECT_EQ(simulated(plans_of(4, 1, 2, kOneForwardOneBackward)).peak_bytes,
            (std::vector<int64_t>{2, 2, 2, 1}));
  EXPECT_EQ(simulated(plans_of(4, 1, 8, kGPipe)).peak_bytes, (std::vector<int64_t>{8, 8, 8, 8}));
  // 2 (P - 1 - r) + (v - 1) P + 1
  EXPECT_EQ(simulated(plans_of(4, 2, 8, kOneForwardOneBackward)).peak_bytes,
            (std::vector<int64_t>{11, 9, 7, 5}));
}

// Whatever the numbers: nobody waits for ever, all work is done once, backwards in the order of
// micro-batches.
TEST(PipeSchedules, EveryNumberOfRanksStagesAndMicroBatchesEnds) {
  for (int64_t p = 1; p <= 8; ++p) {
    for (int64_t v = 1; v <= (p == 1 ? 1 : 4); ++v) {
      for (int64_t m = 1; m <= 17; ++m) {
        for (const PipeSchedule schedule : {PipeSchedule::kGPipe, PipeSchedule::kOneForwardOneBackward}) {
          const std::vector<StepPlan> plans = plans_of(p, v, m, schedule, {1, 1, 1, v == 3 ? 3 : 0});
          EXPECT_NO_THROW(simulated(plans)) << p << " ranks, " << v << " stages, " << m << " micro-batches";
          for (int64_t r = 0; r < p; ++r) {
            std::map<int64_t, int64_t> last;
            int64_t forwards = 0, backwards = 0;
            for (const Action& action : plans[static_cast<size_t>(r)].actions) {
              forwards += action.kind == ActionKind::kForward ? 1 : 0;
              if (action.kind != ActionKind::kBackward) continue;
              ++backwards;
              EXPECT_EQ(action.micro_batch, last[action.group]++);
            }
            EXPECT_EQ(forwards, v * m);
            EXPECT_EQ(backwards, v * m);
          }
        }
      }
    }
  }
}

TEST(PipeSchedules, ASimulationFindsWhatWouldHang) {
  using enum PipeSchedule;
  const auto refused = [](const std::function<void(std::vector<StepPlan>&)>& spoil) {
    std::vector<StepPlan> plans = plans_of(2, 1, 3, kOneForwardOneBackward);
    spoil(plans);
    return error_of([&] { simulated(plans); });
  };
  const auto erase = [](StepPlan& plan, ActionKind kind, int64_t m) {
    std::erase_if(plan.actions, [&](const Action& a) { return a.kind == kind && a.micro_batch == m; });
  };
  EXPECT_THAT(
      refused([&](auto& plans) { erase(plans[0], ActionKind::kSend, 2); }),
      HasSubstr("rank 0 at action 11 'recv_grad mb2 g0 [0,1)'; rank 1 at action 10 'recv mb2 g0 [1,2)'"));
  EXPECT_THAT(refused([&](auto& plans) { erase(plans[0], ActionKind::kRecvGrad, 2); }),
              HasSubstr("of gradients; expected all 3 to be received, got 2"));
  EXPECT_THAT(refused([&](auto& plans) { erase(plans[0], ActionKind::kSend, 0); }),
              HasSubstr("expected micro-batch 0, as 'recv mb0 g0 [1,2)' says, got 1"));
  // Each waits for the other's gradient or activation first.
  EXPECT_THAT(refused([&](auto& plans) {
                auto& actions = plans[0].actions;
                std::stable_partition(actions.begin(), actions.end(),
                                      [](const Action& a) { return a.kind == ActionKind::kRecvGrad; });
              }),
              HasSubstr("for ever; rank 0 at action 0 'recv_grad mb0 g0 [0,1)'; rank 1 at action 0"));
  EXPECT_THAT(refused([&](auto& plans) {
                for (StepPlan& plan : plans) plan.sends_in_flight = 1;
                auto& actions = plans[0].actions;
                std::stable_partition(actions.begin(), actions.end(), [](const Action& a) {
                  return a.kind == ActionKind::kForward || a.kind == ActionKind::kSend;
                });
                auto& other = plans[1].actions;
                std::stable_partition(other.begin(), other.end(), [](const Action& a) {
                  return a.kind != ActionKind::kRecv || a.micro_batch == 0;
                });
              }),
              HasSubstr("for ever"));
}

TEST(PipeSchedules, TheListOfARank) {
  const Stages stages{{{0, 2}, {2, 3}}, 2};
  EXPECT_EQ(to_string(write_training_step(stages, 0, 2, {})),
            "forward mb0 g0 [0,1) keep\n"
            "forward mb0 g1 [1,2) keep\n"
            "send mb0 g1 [1,2)\n"
            "forward mb1 g0 [0,1) keep\n"
            "forward mb1 g1 [1,2) keep\n"
            "send mb1 g1 [1,2)\n"
            "recv_grad mb0 g1 [1,2)\n"
            "backward mb0 g1 [1,2)\n"
            "backward mb0 g0 [0,1)\n"
            "free mb0\n"
            "recv_grad mb1 g1 [1,2)\n"
            "backward mb1 g1 [1,2)\n"
            "reduce mb1 g1 [1,2)\n"
            "backward mb1 g0 [0,1)\n"
            "reduce mb1 g0 [0,1)\n"
            "free mb1\n"
            "tie\n");
  EXPECT_EQ(to_string(write_training_step(stages, 1, 1, {1, 0, 0, 3})),
            "gather mb0 g0 [2,3)\n"
            "recv mb0 g0 [2,3)\n"
            "forward mb0 g0 [2,3)\n"
            "recompute mb0 g0 [2,3)\n"
            "backward mb0 g0 [2,3)\n"
            "release mb0 g0 [2,3)\n"
            "send_grad mb0 g0 [2,3)\n"
            "reduce mb0 g0 [2,3)\n"
            "free mb0\n"
            "tie\n");
  EXPECT_EQ(to_string(write_inference_step(stages, 1)),
            "recv mb0 g0 [2,3)\nforward mb0 g0 [2,3)\nfree mb0\n");
}

}  // namespace
}  // namespace axial::parallel
