// SPDX-License-Identifier: Apache-2.0
// Values of every shape at its corners, and what lies between.
#include "axial/optim/schedule/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "axial/core/check/check.h"

namespace axial::optim {
namespace {

TEST(Schedule, WarmsUpLinearlyWhateverTheKind) {
  for (const char* kind : {"cosine", "linear", "constant"}) {
    const ScheduleOptions options{kind, 4, 0.1};
    EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 100), 0.25);
    EXPECT_DOUBLE_EQ(schedule_factor(options, 2, 100), 0.75);
    EXPECT_DOUBLE_EQ(schedule_factor(options, 3, 100), 1.0);
    EXPECT_DOUBLE_EQ(schedule_factor(options, 4, 100), 1.0);
    EXPECT_DOUBLE_EQ(schedule_factor({kind, 0, 0.1}, 0, 100), 1.0);
  }
}

TEST(Schedule, EndsAtTheMinimum) {
  for (const char* kind : {"cosine", "linear"}) {
    const ScheduleOptions options{kind, 10, 0.2};
    EXPECT_DOUBLE_EQ(schedule_factor(options, 110, 111), 0.2);
    EXPECT_DOUBLE_EQ(schedule_factor(options, 5000, 111), 0.2);
    EXPECT_NEAR(schedule_factor(options, 60, 111), 0.6, 1e-15);  // half way both are half way down
    for (int64_t step = 10; step < 110; ++step) {
      EXPECT_GT(schedule_factor(options, step, 111), schedule_factor(options, step + 1, 111));
    }
  }
  EXPECT_NEAR(schedule_factor({"linear", 0, 0.0}, 25, 101), 0.75, 1e-15);
  EXPECT_NEAR(schedule_factor({"cosine", 0, 0.0}, 25, 101), 0.5 + std::sqrt(0.125), 1e-15);
  EXPECT_EQ(schedule_factor({"constant", 0, 0.0}, 500, 101), 1.0);
}

TEST(Schedule, ShortRunsStayInsideTheWarmUp) {
  EXPECT_DOUBLE_EQ(schedule_factor({"cosine", 100, 0.1}, 2, 3), 0.03);
  EXPECT_DOUBLE_EQ(schedule_factor({"cosine", 0, 0.1}, 0, 1), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor({"cosine", 2, 0.1}, 2, 3), 0.1);
}

TEST(Schedule, RefusesWhatItDoesNotKnow) {
  EXPECT_THROW((ScheduleOptions{"cosine", -1, 0.1}.validate()), ValueError);
  EXPECT_THROW((ScheduleOptions{"cosine", 0, 1.5}.validate()), ValueError);
  EXPECT_THROW(schedule_factor({}, -1, 10), ValueError);
  EXPECT_THROW(schedule_factor({}, 0, 0), ValueError);
  try {
    ScheduleOptions{"cosin", 0, 0.1}.validate();
    FAIL() << "an unknown kind was accepted";
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("did you mean 'cosine'?"));
  }
}

}  // namespace
}  // namespace axial::optim
