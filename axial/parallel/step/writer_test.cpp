// SPDX-License-Identifier: Apache-2.0
// The action lists that memory policies write, read as text.
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/parallel/step/action.h"

namespace axial::parallel {
namespace {

TEST(StepWriter, RecomputesGroupsBetweenTheKeptEnds) {
  EXPECT_EQ(to_string(write_training_step(5, 1, {2, 1, 1})),
            "forward mb0 g0 [0,1) keep\n"
            "forward mb0 g1 [1,3)\n"
            "forward mb0 g2 [3,4)\n"
            "forward mb0 g3 [4,5) keep\n"
            "backward mb0 g3 [4,5)\n"
            "reduce mb0 g3 [4,5)\n"
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

TEST(StepWriter, KeepsEverythingWithoutRecompute) {
  const StepPlan plan = write_training_step(3, 2, {});
  EXPECT_EQ(plan.actions.size(), 2u * (3 + 3 + 1) + 3);
  for (const Action& action : plan.actions) {
    EXPECT_NE(action.kind, ActionKind::kRecompute);
    EXPECT_EQ(action.keep_graph, action.kind == ActionKind::kForward);
  }
}

TEST(StepWriter, ReducesOnceAStepOrAfterEveryMicroBatch) {
  for (const int64_t stage : {0, 1, 2}) {
    MemoryPolicy policy;
    policy.zero_stage = stage;
    std::string reduces;
    for (const Action& action : write_training_step(2, 3, policy).actions) {
      if (action.kind == ActionKind::kReduce) {
        reduces += std::to_string(action.micro_batch) + std::to_string(action.group) + " ";
      }
    }
    EXPECT_EQ(reduces, stage < 2 ? "21 20 " : "01 00 11 10 21 20 ");
  }
}

TEST(StepWriter, GathersOneGroupAheadAndReleases) {
  MemoryPolicy policy;
  policy.recompute_group = 1;
  policy.zero_stage = 3;
  EXPECT_EQ(to_string(write_training_step(3, 1, policy)),
            "gather mb0 g0 [0,1)\n"
            "gather mb0 g1 [1,2)\n"
            "forward mb0 g0 [0,1) keep\n"
            "release mb0 g0 [0,1)\n"
            "gather mb0 g2 [2,3)\n"
            "forward mb0 g1 [1,2)\n"
            "release mb0 g1 [1,2)\n"
            "forward mb0 g2 [2,3) keep\n"
            "gather mb0 g1 [1,2)\n"
            "backward mb0 g2 [2,3)\n"
            "release mb0 g2 [2,3)\n"
            "reduce mb0 g2 [2,3)\n"
            "gather mb0 g0 [0,1)\n"
            "recompute mb0 g1 [1,2)\n"
            "backward mb0 g1 [1,2)\n"
            "release mb0 g1 [1,2)\n"
            "reduce mb0 g1 [1,2)\n"
            "backward mb0 g0 [0,1)\n"
            "release mb0 g0 [0,1)\n"
            "reduce mb0 g0 [0,1)\n"
            "free mb0\n");
  EXPECT_EQ(to_string(write_inference_step(2, {.zero_stage = 3})),
            "gather mb0 g0 [0,1)\ngather mb0 g1 [1,2)\nforward mb0 g0 [0,1)\nrelease mb0 g0 [0,1)\n"
            "forward mb0 g1 [1,2)\nrelease mb0 g1 [1,2)\nfree mb0\n");
}

// On their way while the group two ahead computes, or, where that is the group itself, behind it.
TEST(StepWriter, FetchesPartsOneGroupAheadOfTheirGather) {
  MemoryPolicy policy;
  policy.recompute_group = 1;
  policy.zero_stage = 3;
  policy.offload_parameters = OffloadTo::kHost;
  EXPECT_EQ(to_string(write_training_step(3, 1, policy)),
            "fetch_parts mb0 g0 [0,1)\n"
            "fetch_parts mb0 g1 [1,2)\n"
            "gather mb0 g0 [0,1)\n"
            "gather mb0 g1 [1,2)\n"
            "fetch_parts mb0 g2 [2,3)\n"
            "forward mb0 g0 [0,1) keep\n"
            "release mb0 g0 [0,1)\n"
            "gather mb0 g2 [2,3)\n"
            "forward mb0 g1 [1,2)\n"
            "release mb0 g1 [1,2)\n"
            "fetch_parts mb0 g1 [1,2)\n"
            "forward mb0 g2 [2,3) keep\n"
            "gather mb0 g1 [1,2)\n"
            "fetch_parts mb0 g0 [0,1)\n"
            "backward mb0 g2 [2,3)\n"
            "release mb0 g2 [2,3)\n"
            "reduce mb0 g2 [2,3)\n"
            "gather mb0 g0 [0,1)\n"
            "recompute mb0 g1 [1,2)\n"
            "backward mb0 g1 [1,2)\n"
            "release mb0 g1 [1,2)\n"
            "reduce mb0 g1 [1,2)\n"
            "backward mb0 g0 [0,1)\n"
            "release mb0 g0 [0,1)\n"
            "reduce mb0 g0 [0,1)\n"
            "free mb0\n");
  EXPECT_EQ(to_string(write_inference_step(1, {.zero_stage = 3, .offload_parameters = OffloadTo::kFile})),
            "fetch_parts mb0 g0 [0,1)\ngather mb0 g0 [0,1)\nforward mb0 g0 [0,1)\nrelease mb0 g0 [0,1)\n"
            "free mb0\n");
}

TEST(StepWriter, KeptEndsMayCoverAll) {
  EXPECT_EQ(to_string(write_training_step(2, 1, {3, 5, 5})), to_string(write_training_step(2, 1, {})));
  EXPECT_EQ(write_training_step(4, 1, {8, 0, 0}).groups, (std::vector<BlockRange>{{0, 4}}));
}

TEST(StepWriter, InferenceKeepsNothing) {
  EXPECT_EQ(to_string(write_inference_step(2)), "forward mb0 g0 [0,1)\nforward mb0 g1 [1,2)\nfree mb0\n");
}

TEST(StepWriter, RefusesCountsBelowOne) {
  EXPECT_THROW(write_training_step(0, 1, {}), ValueError);
  EXPECT_THROW(write_training_step(1, 0, {}), ValueError);
  EXPECT_THROW(write_training_step(1, 1, {-1, 0, 0}), ValueError);
  EXPECT_THROW(write_inference_step(0), ValueError);
}

}  // namespace
}  // namespace axial::parallel
