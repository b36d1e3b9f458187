// SPDX-License-Identifier: Apache-2.0
#include "axial/core/check/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/status.h"

namespace axial {
namespace {

TEST(Check, MessageNamesOpExpectedAndGot) {
  try {
    AXIAL_CHECK(1 == 2, "layer_norm", "weight has the wrong size; expected {}, got {}", 4, 5);
    FAIL();
  } catch (const ValueError& e) {
    EXPECT_STREQ(e.what(), "[layer_norm] weight has the wrong size; expected 4, got 5");
  }
  EXPECT_NO_THROW(AXIAL_CHECK(true, "x", "y"));
}

TEST(Status, BecomesTheMatchingException) {
  EXPECT_NO_THROW(throw_if_failed(Status{}, "op"));
  EXPECT_THROW(throw_if_failed(Status::invalid("a"), "op"), ValueError);
  EXPECT_THROW(throw_if_failed(Status::unsupported("b"), "op"), UnsupportedError);
}

}  // namespace
}  // namespace axial
