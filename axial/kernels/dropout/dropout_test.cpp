// SPDX-License-Identifier: Apache-2.0
#include "axial/kernels/dropout/dropout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace axial::kernels {
namespace {

struct Dropped {
  std::vector<float> y;
  Status status;
};

Dropped run(int64_t batch, int64_t tokens, int64_t channels, double p, std::vector<int64_t> samples,
            std::vector<int64_t> positions, int threads = 1) {
  std::vector<float> x(static_cast<size_t>(batch * tokens * channels), 3.0f);
  Dropped r{std::vector<float>(x.size() + 1, -7.0f), {}};
  DropoutParams params{DType::kF32, batch,          tokens,           channels, p,
                       root_key(5), samples.data(), positions.data(), x.data(), tokens * channels,
                       channels,    r.y.data()};
  r.status = dropout(params, thread_parallel_for(threads));
  EXPECT_EQ(r.y.back(), -7.0f) << "wrote past the end";
  r.y.pop_back();
  return r;
}

TEST(Dropout, DropsTheGivenShareAndScalesTheRest) {
  for (const double p : {0.1, 0.5, 0.9}) {
    const Dropped r = run(2, 100, 513, p, {0, 1}, std::vector<int64_t>(100, 0), 2);
    double dropped = 0;
    for (const float y : r.y) {
      if (y == 0) {
        ++dropped;
      } else {
        EXPECT_FLOAT_EQ(y, static_cast<float>(3.0 / (1 - p)));
      }
    }
    // All rows of a sample share a position here, so 2 x 513 independent draws: five standard errors.
    EXPECT_NEAR(dropped / static_cast<double>(r.y.size()), p, 5 * std::sqrt(p * (1 - p) / 1026));
  }
}

TEST(Dropout, DependsOnSamplePositionAndChannelAlone) {
  const std::vector<int64_t> positions{10, 11, 12, 13};
  const Dropped whole = run(3, 4, 70, 0.4, {7, 8, 9}, positions, 3);
  const Dropped part = run(1, 2, 70, 0.4, {8}, {12, 13});  // sample 8, last two positions
  for (size_t i = 0; i < part.y.size(); ++i) EXPECT_EQ(part.y[i], whole.y[(4 + 2) * 70 + i]);
  for (const int threads : {1, 2, 5, 16})
    EXPECT_EQ(run(3, 4, 70, 0.4, {7, 8, 9}, positions, threads).y, whole.y);
  EXPECT_NE(run(3, 4, 70, 0.4, {7, 8, 10}, positions).y, whole.y);
}

TEST(Dropout, FollowsTheDocumentedMap) {
  const Dropped r = run(1, 1, 9, 0.3, {42}, {17});
  for (uint64_t c = 0; c < 9; ++c) {
    const uint32_t word = philox(root_key(5).child(uint64_t{42}), 17, c / 4)[c % 4];
    EXPECT_EQ(r.y[c] == 0.0f, word < std::llround(0.3 * 0x1p32)) << c;
  }
}

TEST(Dropout, Edges) {
  for (const float y : run(1, 2, 3, 0.0, {0}, {0, 1}).y) EXPECT_EQ(y, 3.0f);
  for (const float y : run(1, 2, 3, 1.0, {0}, {0, 1}).y) EXPECT_EQ(y, 0.0f);
  EXPECT_TRUE(run(0, 2, 3, 0.5, {}, {0, 1}).status.ok());
  EXPECT_FALSE(run(1, 1, 1, 1.5, {0}, {0}).status.ok());
  EXPECT_FALSE(run(1, 1, 1, std::nan(""), {0}, {0}).status.ok());
}

TEST(Dropout, SixteenBitAndDouble) {
  const std::vector<int64_t> ids{1}, positions{0};
  const auto same = [&]<class T>(DType dtype) {
    std::vector<T> x(64, T(2.0f)), y(64);
    const DropoutParams params{dtype,    1,  1,  64,      0.5, root_key(5), ids.data(), positions.data(),
                               x.data(), 64, 64, y.data()};
    ASSERT_TRUE(dropout(params, serial_parallel_for()).ok());
    const Dropped f = run(1, 1, 64, 0.5, {1}, {0});
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(static_cast<float>(y[i]), f.y[i] == 0 ? 0.0f : 4.0f);
  };
  same.operator()<double>(DType::kF64);
  same.operator()<BFloat16>(DType::kBF16);
  same.operator()<Float16>(DType::kF16);
  EXPECT_FALSE(dropout({.dtype = DType::kI64}, serial_parallel_for()).ok());
}

}  // namespace
}  // namespace axial::kernels
