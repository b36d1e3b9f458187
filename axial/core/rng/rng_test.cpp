// SPDX-License-Identifier: Apache-2.0
#include "axial/core/rng/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace axial {
namespace {

// Known answers of the Random123 distribution for philox4x32-10.
TEST(Rng, PhiloxKnownAnswers) {
  const auto zero = philox(RngKey{0}, 0, 0);
  EXPECT_EQ(zero, (std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const auto ones = philox(RngKey{~0ull}, ~0ull, ~0ull);
  EXPECT_EQ(ones, (std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
}

TEST(Rng, NormalHasTheMomentsOfANormal) {
  const RngKey key = root_key(7).child("weight");
  const int n = 200000;
  double sum = 0, square = 0, fourth = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random_normal(key, static_cast<uint64_t>(i));
    sum += x;
    square += x * x;
    fourth += x * x * x * x;
  }
  // Five standard errors of each moment's estimate.
  EXPECT_LT(std::abs(sum / n), 5 / std::sqrt(n));
  EXPECT_LT(std::abs(square / n - 1), 5 * std::sqrt(2.0 / n));
  EXPECT_LT(std::abs(fourth / n - 3), 5 * std::sqrt(96.0 / n));
}

TEST(Rng, ChildrenDiffer) {
  const RngKey key = root_key(0);
  EXPECT_NE(key.child("a").value, key.child("b").value);
  EXPECT_NE(key.child(uint64_t{1}).value, key.child(uint64_t{2}).value);
  EXPECT_NE(key.child(uint64_t{0}).value, key.value);
}

TEST(Rng, PermutationIsABijectionAndDependsOnTheKey) {
  for (const uint64_t n : {1u, 2u, 3u, 17u, 1000u, 4096u, 5000u}) {
    const RandomPermutation p(root_key(n), n);
    std::vector<int> seen(n, 0);
    for (uint64_t i = 0; i < n; ++i) ++seen.at(p(i));
    for (const int s : seen) EXPECT_EQ(s, 1);
  }
  int equal = 0;
  const RandomPermutation a(root_key(1), 1000), b(root_key(2), 1000);
  for (uint64_t i = 0; i < 1000; ++i) equal += a(i) == b(i);
  EXPECT_LT(equal, 12);  // a random pair of permutations agrees in about one place
}

}  // namespace
}  // namespace axial
