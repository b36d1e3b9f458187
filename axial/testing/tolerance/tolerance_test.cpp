// SPDX-License-Identifier: Apache-2.0
#include "axial/testing/tolerance/tolerance.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace axial::testing {
namespace {

at::Tensor of(const std::vector<double>& values, at::ScalarType dtype = at::kDouble) {
  return at::tensor(values, at::kDouble).to(dtype);
}

TEST(Tolerance, RelativeErrorAndCosine) {
  EXPECT_DOUBLE_EQ(relative_l2(of({3, 4}), of({3, 4})), 0);
  EXPECT_DOUBLE_EQ(relative_l2(of({3, 4.5}), of({3, 4})), 0.1);
  EXPECT_DOUBLE_EQ(relative_l2(of({3, 4}), of({0, 0})), 5);
  EXPECT_DOUBLE_EQ(cosine(of({1, 0}), of({0, 2})), 0);
  EXPECT_DOUBLE_EQ(cosine(of({1, 1}), of({-2, -2})), -1);
}

TEST(Tolerance, TwiceThePlainErrorAndNoMore) {
  const at::Tensor truth = of({1, 2}), plain = of({1.1, 2}, at::kFloat);
  EXPECT_TRUE(within_twice(of({1.19, 2}, at::kFloat), plain, truth).ok);
  EXPECT_FALSE(within_twice(of({1.21, 2}, at::kFloat), plain, truth).ok);
  EXPECT_FALSE(within_twice(of({1.0}, at::kFloat), plain, truth).ok);
}

TEST(Tolerance, NotFiniteMustMatch) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(within_twice(of({inf, 1}), of({inf, 1}), of({inf, 1})).ok);
  EXPECT_FALSE(within_twice(of({-inf, 1}), of({inf, 1}), of({inf, 1})).ok);
  EXPECT_FALSE(within_twice(of({nan, 1}), of({1, 1}), of({1, 1})).ok);
  EXPECT_FALSE(close(of({nan}), of({1}), 1, 1).ok);
  EXPECT_TRUE(close(of({nan}), of({nan}), 1e-3, 0).ok);
}

TEST(Tolerance, CloseNamesTheWorstElement) {
  const Verdict v = close(of({1, 2.2, 3.1}), of({1, 2, 3}), 0, 0.05);
  EXPECT_FALSE(v.ok);
  EXPECT_NE(v.text.find("element 1 is 2.2"), std::string::npos) << v.text;
  EXPECT_TRUE(close(of({1, 2.2}), of({1, 2}), 0.11, 0).ok);
}

TEST(Tolerance, BitsIncludeTheSignOfZeroAndTheDtype) {
  EXPECT_TRUE(same_bits(of({1, 0}), of({1, 0})).ok);
  EXPECT_FALSE(same_bits(of({1, -0.0}), of({1, 0})).ok);
  EXPECT_FALSE(same_bits(of({1}), of({1}, at::kFloat)).ok);
}

}  // namespace
}  // namespace axial::testing
