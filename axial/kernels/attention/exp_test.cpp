// SPDX-License-Identifier: Apache-2.0
// The exponential of tile_inl.h against fp64, over every 37th float of its range and on every instruction
// set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/attention/exp_test.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "axial/kernels/attention/tile_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

void exp_all(const float* x, int64_t n, float* y) {
  for_lanes(n,
            [&](int64_t i, auto part) HWY_ATTR { store(exp_of_negative(load(x + i, part)), y + i, part); });
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
HWY_EXPORT(exp_all);

namespace {

std::vector<float> exp_of(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(exp_all)(x.data(), static_cast<int64_t>(x.size()), y.data());
  return y;
}

// Largest error in units of the last place where exp(x) is a normal number; `below`: in 2^-126, elsewhere.
struct Errors {
  double ulps = 0, below = 0;
};

void add_errors(const std::vector<float>& x, const std::vector<double>& truth, Errors& errors) {
  const std::vector<float> y = exp_of(x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(static_cast<double>(y[i]) - truth[i]);
    if (truth[i] >= 0x1p-126) {
      errors.ulps = std::max(errors.ulps, error / std::ldexp(1.0, std::ilogb(truth[i]) - 23));
    } else {
      errors.below = std::max(errors.below, error / 0x1p-126);
    }
  }
}

TEST(AttentionExp, IsWithinTwoUnitsOfTheLastPlace) {
  constexpr uint32_t kFirst = 0x80000000, kLast = 0xC2DC0000, kStep = 37, kChunk = 1 << 16;  // -0 to -110
  std::vector<Errors> errors;
  for (uint64_t first = kFirst; first < kLast; first += uint64_t{kStep} * kChunk) {
    std::vector<float> x;
    std::vector<double> truth;
    for (uint64_t bits = first; bits < std::min<uint64_t>(kLast, first + uint64_t{kStep} * kChunk);
         bits += kStep) {
      x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
      truth.push_back(std::exp(static_cast<double>(x.back())));
    }
    size_t target = 0;
    test::for_each_target([&] {
      if (errors.size() == target) errors.emplace_back();
      add_errors(x, truth, errors[target++]);
    });
  }
  for (const Errors& e : errors) {
    EXPECT_LE(e.ulps, 2);
    EXPECT_LE(e.below, 1);
  }
}

TEST(AttentionExp, EndsOfTheRange) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  test::for_each_target([] {
    const std::vector<float> y = exp_of({0.0f, -0.0f, -kInfinity, -1e30f, NAN, 1e-6f});
    EXPECT_EQ(y[0], 1);
    EXPECT_EQ(y[1], 1);
    EXPECT_EQ(y[2], 0);
    EXPECT_EQ(y[3], 0);
    EXPECT_TRUE(std::isnan(y[4]));
    EXPECT_NEAR(y[5], 1, 2e-6);
  });
}

}  // namespace
}  // namespace axial::kernels
#endif
