// SPDX-License-Identifier: Apache-2.0
// Planned steps against counted ones, with and without what leaves the device; what a whole step sends by
// literal numbers, and what cannot be planned.
#include "axial/train/plan/plan_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/testing/ranks/ranks.h"
#include "axial/train/plan/plan_check.h"

namespace axial::train {
namespace {

using parallel::MeshOptions;
using parallel::OffloadTo;
using testing::mesh;
using testing::piped;
using testing::PlanCase;
using testing::step_of;

constexpr Precision kBf16 = Precision::kBf16, kFp32 = Precision::kFp32;

constexpr OffloadTo kHost = OffloadTo::kHost, kFile = OffloadTo::kFile;

std::string run_plans(int64_t size, const std::vector<PlanCase>& cases) {
  axial::testing::RanksOptions options;
  options.compare_calls = false;
  return axial::testing::failures(axial::testing::run_ranks(
      size,
      [&](parallel::World& world) {
        std::string failed;  // all cases are tried: ranks must not lose each other
        for (const PlanCase& c : cases) {
          try {
            testing::check_plan(world, c);
          } catch (const parallel::CollectiveError&) {
            throw;
          } catch (const Error& error) {
            failed += fmt::format("\n  {}", error.what());
          }
        }
        testing::require(failed.empty(), failed);
      },
      options));
}

TEST(PlanStep, OneRank) {
  EXPECT_EQ(run_plans(1, {{mesh(1, 1, 1, 1)},
                          {mesh(1, 1, 1, 1), 1},
                          {mesh(1, 1, 1, 1), 2},
                          {mesh(1, 1, 1, 1), 2, true},
                          {mesh(1, 1, 1, 1), 0, false, kBf16},
                          {mesh(1, 1, 1, 1), 3, false, kBf16},
                          {mesh(1, 1, 1, 1), 0, false, kFp32, 2, true},
                          {mesh(1, 1, 1, 1), 1, true, kFp32, 6, false, 2},
                          {mesh(1, 1, 1, 1), 0, false, kFp32, 6, false, 1, 16},
                          {mesh(1, 1, 1, 1), 2, false, kBf16, 6, true, 1, 16}}),
            "");
}

TEST(PlanStep, TwoRanks) {
  EXPECT_EQ(run_plans(2, {{mesh(2, 1, 1, 1)},
                          {mesh(2, 1, 1, 1, 1)},
                          {mesh(2, 1, 1, 1, 2), 1},
                          {mesh(2, 1, 1, 1, 3)},
                          {mesh(2, 1, 1, 1, 3), 2, false, kBf16, 5},
                          {mesh(1, 2, 1, 1)},
                          {mesh(1, 2, 1, 1, 1), 2, true},
                          {mesh(1, 2, 1, 1, 3), 1, false, kBf16},
                          {mesh(1, 1, 2, 1)},
                          {mesh(1, 1, 2, 1, 2), 2},
                          {mesh(1, 1, 2, 1, 3), 2, true},
                          {mesh(1, 1, 2, 1), 1, true, kBf16},
                          {mesh(1, 1, 1, 2)},
                          {mesh(1, 1, 1, 2, 0, true)},
                          {mesh(1, 1, 1, 2, 0, true), 2},
                          {mesh(1, 1, 1, 2), 1, false, kBf16},
                          {mesh(1, 2, 1, 1, 3), 1, false, kFp32, 6, false, 2, 16},
                          {mesh(1, 1, 1, 2, 0, true), 1, false, kFp32, 6, false, 1, 16},
                          {piped(mesh(1, 1, 1, 1))},
                          {piped(mesh(1, 1, 1, 1), 2)},
                          {piped(mesh(1, 1, 1, 1), 1, true), 2},
                          {piped(mesh(1, 1, 1, 1), 2), 1, true, kBf16, 8, true}}),
            "");
}

TEST(PlanStep, FourRanks) {
  EXPECT_EQ(run_plans(4, {{mesh(4, 1, 1, 1, 3), 1},
                          {mesh(1, 4, 1, 1)},
                          {mesh(1, 4, 1, 1, 3), 2},
                          {mesh(1, 4, 1, 1, 3), 2, false, kFp32, 6, false, 2},
                          {mesh(1, 2, 2, 1, 1), 1, true, kFp32, 6, false, 2},
                          {mesh(1, 1, 4, 1)},
                          {mesh(1, 1, 1, 4, 0, true)},
                          {mesh(2, 2, 1, 1, 3)},
                          {mesh(2, 2, 1, 1, 1), 2, false, kBf16},
                          {mesh(2, 1, 2, 1, 2)},
                          {mesh(2, 1, 1, 2, 3, true), 1},
                          {mesh(1, 2, 2, 1, 3)},
                          {mesh(1, 2, 2, 1, 3), 1, true, kBf16},
                          {mesh(1, 2, 1, 2, 1, true)},
                          {mesh(1, 1, 2, 2, 3)},
                          {mesh(1, 2, 1, 2, 3, true), 2, false, kBf16, 6, true, 1, 16},
                          {piped(mesh(2, 1, 1, 1, 3)), 1},
                          {piped(mesh(2, 1, 1, 1, 1), 2)},
                          {piped(mesh(1, 2, 1, 1))},
                          {piped(mesh(1, 1, 2, 1, 2), 1, true), 2},
                          {piped(mesh(1, 1, 1, 2, 0, true), 2), 1, false, kFp32, 6, true}}),
            "");
}

TEST(PlanOffload, OneRank) {
  EXPECT_EQ(
      run_plans(1, {{.mesh = mesh(1, 1, 1, 1), .recompute = 1, .checkpoints = kHost},
                    {.mesh = mesh(1, 1, 1, 1), .recompute = 1, .micro_batch = 6, .checkpoints = kFile},
                    {.mesh = mesh(1, 1, 1, 1), .optimizer = kHost},
                    {.mesh = mesh(1, 1, 1, 1),
                     .recompute = 2,
                     .precision = kBf16,
                     .micro_batch = 6,
                     .checkpoints = kHost,
                     .optimizer = kHost},
                    {.mesh = mesh(1, 1, 1, 1),
                     .recompute = 1,
                     .tile_tokens = 16,
                     .micro_batch = 6,
                     .checkpoints = kHost,
                     .optimizer = kFile},
                    {.mesh = mesh(1, 1, 1, 1), .precision = kBf16, .tile_tokens = 32, .micro_batch = 6}}),
      "");
}

TEST(PlanOffload, TwoRanks) {
  EXPECT_EQ(run_plans(2, {{.mesh = mesh(2, 1, 1, 1, 3),
                           .recompute = 1,
                           .batch = 12,
                           .micro_batch = 6,
                           .checkpoints = kHost,
                           .optimizer = kHost},
                          {.mesh = mesh(2, 1, 1, 1, 2), .batch = 8, .micro_batch = 4, .optimizer = kFile},
                          {.mesh = mesh(1, 2, 1, 1, 3),
                           .recompute = 1,
                           .keep_attention = true,
                           .tile_tokens = 16,
                           .micro_batch = 6,
                           .checkpoints = kFile},
                          {.mesh = mesh(1, 1, 2, 1, 2), .recompute = 2, .micro_batch = 6, .optimizer = kHost},
                          {.mesh = mesh(1, 1, 1, 2, 0, true),
                           .recompute = 1,
                           .tile_tokens = 16,
                           .micro_batch = 6,
                           .checkpoints = kHost},
                          {.mesh = mesh(1, 1, 1, 2), .tile_tokens = 32, .micro_batch = 6},
                          {.mesh = piped(mesh(1, 1, 1, 1)),
                           .recompute = 1,
                           .micro_batch = 3,
                           .checkpoints = kHost,
                           .optimizer = kHost},
                          {.mesh = piped(mesh(1, 1, 1, 1), 2), .tile_tokens = 16, .optimizer = kFile}}),
            "");
}

TEST(PlanOffload, FourRanks) {
  EXPECT_EQ(
      run_plans(4, {{.mesh = mesh(1, 2, 2, 1, 3),
                     .recompute = 1,
                     .tile_tokens = 16,
                     .micro_batch = 6,
                     .checkpoints = kHost,
                     .optimizer = kHost},
                    {.mesh = mesh(2, 1, 1, 2, 1, true), .batch = 12, .micro_batch = 6, .optimizer = kFile},
                    {.mesh = mesh(1, 4, 1, 1, 3),
                     .recompute = 2,
                     .head_groups = 2,
                     .tile_tokens = 8,
                     .micro_batch = 6,
                     .checkpoints = kFile},
                    {.mesh = piped(mesh(2, 1, 1, 1, 1)),
                     .recompute = 1,
                     .batch = 12,
                     .micro_batch = 3,
                     .checkpoints = kHost},
                    {.mesh = mesh(2, 2, 1, 1, 3),
                     .recompute = 1,
                     .precision = kBf16,
                     .batch = 12,
                     .tile_tokens = 16,
                     .micro_batch = 6,
                     .checkpoints = kHost,
                     .optimizer = kHost}}),
      "");
}

// Everything that may leave the device does.
PlanCase away(const MeshOptions& options, OffloadTo to, int64_t recompute = 1, Precision precision = kFp32,
              int64_t tile_tokens = 0) {
  return {.mesh = options,
          .recompute = recompute,
          .precision = precision,
          .tile_tokens = tile_tokens,
          .checkpoints = to,
          .optimizer = to,
          .parameters = to};
}

TEST(PlanOffload, EverythingOfOneRank) {
  EXPECT_EQ(run_plans(1, {away(mesh(1, 1, 1, 1, 3), kHost), away(mesh(1, 1, 1, 1, 3), kFile, 1, kBf16, 16),
                          away(mesh(1, 1, 1, 1, 3), kHost, 2, kBf16)}),
            "");
}

TEST(PlanOffload, EverythingOfTwoRanks) {
  EXPECT_EQ(
      run_plans(2,
                {away(mesh(2, 1, 1, 1, 3), kHost, 1, kBf16), away(mesh(1, 2, 1, 1, 3), kFile, 1, kFp32, 16),
                 away(mesh(1, 1, 1, 2, 3, true), kHost, 1, kBf16), away(piped(mesh(1, 1, 1, 1, 3)), kHost)}),
      "");
}

TEST(PlanOffload, EverythingOfFourRanks) {
  EXPECT_EQ(run_plans(4, {away(mesh(2, 2, 1, 1, 3), kHost, 1, kBf16),
                          away(mesh(1, 1, 2, 2, 3, true), kFile, 2, kFp32, 16)}),
            "");
}

TEST(PlanStep, PartsOfActivationsOverTwo) {
  EXPECT_EQ(run_plans(2, {{.mesh = mesh(1, 1, 1, 2), .recompute = 1, .partition = true},
                          {.mesh = mesh(1, 1, 1, 2),
                           .recompute = 2,
                           .precision = kBf16,
                           .tile_tokens = 16,
                           .checkpoints = kHost,
                           .optimizer = kHost,
                           .partition = true}}),
            "");
}

TEST(PlanStep, PartsOfActivationsOverFour) {
  PlanCase everything = away(mesh(2, 1, 1, 2, 3), kHost);
  everything.tied = everything.partition = true;
  EXPECT_EQ(
      run_plans(4, {{.mesh = mesh(1, 1, 1, 4), .recompute = 1, .partition = true},
                    everything,
                    {.mesh = piped(mesh(1, 1, 1, 2)), .recompute = 1, .tied = true, .partition = true}}),
      "");
}

// Rows of one record where a ring goes round, of two elsewhere: with the table at home, and sent to all.
PlanCase learned(MeshOptions options, int64_t recompute = 0, Precision precision = kFp32) {
  return {.mesh = options, .recompute = recompute, .precision = precision, .learned = true};
}

TEST(PlanStep, TablesOfPositions) {
  EXPECT_EQ(run_plans(2, {learned(mesh(1, 2, 1, 1)), learned(mesh(1, 2, 1, 1, 3), 1, kBf16),
                          learned(mesh(1, 1, 2, 1)), learned(mesh(1, 1, 2, 1, 1), 2)}),
            "");
}

TEST(PlanStep, TablesOfPositionsOverFour) {
  EXPECT_EQ(run_plans(4, {learned(mesh(1, 4, 1, 1, 2)), learned(mesh(1, 2, 2, 1), 1, kBf16),
                          learned(mesh(1, 1, 4, 1, 3), 1), learned(mesh(2, 2, 1, 1, 3)),
                          learned(mesh(1, 2, 1, 2, 0, true), 1), learned(piped(mesh(1, 2, 1, 1)))}),
            "");
}

TEST(PlanStep, MasksInBits) {
  EXPECT_EQ(run_plans(2, {{.mesh = mesh(1, 1, 2, 1), .bits = true},
                          {.mesh = mesh(2, 1, 1, 1), .recompute = 1, .precision = kBf16, .bits = true}}),
            "");
}

// Of a whole step of training, per rank of 4, by literal numbers: P parameters of fp32 are 4 P bytes, an
// all-reduce sends 2 * 3/4 of them, a gather or scatter 3/4; three micro-batches; control apart.
TEST(PlanStep, TrafficOfAWholeStep) {
  const models::ModelRegistry registry = models::all_models();
  using Sent = std::map<std::string, int64_t>;
  const auto sent = [&](int64_t zero) {
    StepToPlan what = step_of({mesh(4, 1, 1, 1, zero)}, 4, registry);
    what.train.batch = 24;
    const std::vector<RankPlan> plans = plan_step(what);
    EXPECT_EQ(plans.size(), 1U);
    EXPECT_EQ(plans[0].parameters, 73152);
    Sent out;
    for (const auto& [key, traffic] : plans[0].traffic) out[key.second] += traffic.bytes;
    return out;
  };
  static_assert(73152 * 4 * 3 / 4 == 219456);
  EXPECT_EQ(sent(0), (Sent{{"all_reduce", 2 * 219456}, {"control", 36}}));
  EXPECT_EQ(sent(1), (Sent{{"reduce_scatter", 219456}, {"all_gather", 219456}, {"control", 48}}));
  EXPECT_EQ(sent(2), (Sent{{"reduce_scatter", 3 * 219456}, {"all_gather", 219456}, {"control", 48}}));
  // Twice per micro-batch, but for what stays: the head (69 x 48) at each turn, the embedding (as large)
  // between micro-batches.
  const int64_t stays = (3 + 2) * 69 * 48 * 4 * 3 / 4;
  EXPECT_EQ(sent(3),
            (Sent{{"reduce_scatter", 3 * 219456}, {"all_gather", 6 * 219456 - stays}, {"control", 48}}));
}

TEST(PlanStep, NamesWhatDoesNotFit) {
  const models::ModelRegistry registry = models::all_models();
  const auto error_of = [&](const MeshOptions& options, int64_t world_size) -> std::string {
    try {
      plan_step(step_of({options}, world_size, registry));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(error_of(mesh(3, 1, 1, 1), 2), HasSubstr("expected the product of 2 ranks, got 3"));
  MeshOptions many = mesh(1, 1, 1, 1);
  many.pipe = 2;
  many.stages_per_rank = 9;
  EXPECT_THAT(error_of(many, 2), HasSubstr("as many stages as the model has blocks"));
  EXPECT_THROW(plan_step({}), ValueError);
}

}  // namespace
}  // namespace axial::train
