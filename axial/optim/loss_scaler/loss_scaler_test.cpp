// SPDX-License-Identifier: Apache-2.0
// Transitions of the scale, its bounds, and resuming in the middle of a run of good steps.
#include "axial/optim/loss_scaler/loss_scaler.h"

#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial::optim {
namespace {

LossScalerOptions quick() {
  LossScalerOptions options;
  options.initial = 8;
  options.growth_interval = 3;
  options.maximum = 16;
  return options;
}

TEST(LossScaler, ShrinksOnOverflowAndGrowsAfterGoodSteps) {
  LossScaler scaler(quick(), true);
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 4);
  scaler.update(true);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 4);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 8);
  scaler.update(true);
  scaler.update(true);
  scaler.update(false);  // starts the count anew
  scaler.update(true);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 4);
}

TEST(LossScaler, StaysInsideItsBounds) {
  LossScaler scaler(quick(), true);
  for (int i = 0; i < 20; ++i) scaler.update(false);
  EXPECT_EQ(scaler.scale(), 1);
  for (int i = 0; i < 60; ++i) scaler.update(true);
  EXPECT_EQ(scaler.scale(), 16);
}

TEST(LossScaler, HysteresisToleratesSingleOverflows) {
  LossScalerOptions options = quick();
  options.hysteresis = 2;
  LossScaler scaler(options, true);
  scaler.update(false);
  scaler.update(true);
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 8);
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 4);
  scaler.update(false);  // a run of overflows goes on shrinking
  EXPECT_EQ(scaler.scale(), 2);
}

TEST(LossScaler, StaticStaysAtOne) {
  LossScaler scaler(quick(), false);
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 1);
  LossScaler dynamic(quick(), true);
  scaler.load_state(dynamic.state());
  EXPECT_EQ(scaler.scale(), 1);
}

TEST(LossScaler, ResumesWhereItWas) {
  LossScaler one(quick(), true);
  one.update(false);
  one.update(true);
  one.update(true);
  LossScaler two(quick(), true);
  two.load_state(nlohmann::json::parse(one.state().dump()));
  one.update(true);
  two.update(true);
  EXPECT_EQ(two.scale(), 8);
  EXPECT_EQ(one.state(), two.state());
  EXPECT_THROW(two.load_state({{"scale", 4.0}}), ValueError);
  EXPECT_THROW(two.load_state({{"scale", -4.0}, {"good_steps", 0}, {"overflows", 0}}), ValueError);
}

TEST(LossScaler, RefusesRulesThatCannotWork) {
  LossScalerOptions options;
  options.backoff = 1.0;
  EXPECT_THROW(LossScaler(options, true), ValueError);
  options = {};
  options.initial = 0.5;
  EXPECT_THROW(LossScaler(options, true), ValueError);
  options = {};
  options.growth_interval = 0;
  EXPECT_THROW(LossScaler(options, true), ValueError);
}

}  // namespace
}  // namespace axial::optim
