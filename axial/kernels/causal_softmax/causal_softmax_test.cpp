// SPDX-License-Identifier: Apache-2.0
#include "axial/kernels/causal_softmax/causal_softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "axial/core/rng/rng.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

struct Case {
  int64_t rows, cols, ld, first_query;
  double scale, slope;
};

std::vector<double> random_values(int64_t n, uint64_t seed, double spread) {
  std::vector<double> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) v[i] = spread * random_normal(root_key(seed), static_cast<uint64_t>(i));
  return v;
}

// The definition, in long double.
void reference(const Case& c, const std::vector<double>& scores, std::vector<double>& p,
               std::vector<double>& lse) {
  for (int64_t r = 0; r < c.rows; ++r) {
    const int64_t q = c.first_query + r;
    long double sum = 0, max = -1e300L;
    const auto logit = [&](int64_t k) {
      return static_cast<long double>(scores[r * c.ld + k]) * c.scale +
             static_cast<long double>(c.slope) * (k - q);
    };
    for (int64_t k = 0; k < c.cols && k <= q; ++k) max = std::max(max, logit(k));
    for (int64_t k = 0; k < c.cols && k <= q; ++k) sum += std::exp(logit(k) - max);
    for (int64_t k = 0; k < c.cols; ++k)
      p[r * c.ld + k] = k <= q ? static_cast<double>(std::exp(logit(k) - max) / sum) : 0.0;
    lse[r] = static_cast<double>(max + std::log(sum));
  }
}

// Round-off of one exp of an argument below 128 in T, with a factor for the sum.
template <class T>
double tolerance() {
  return 200 * static_cast<double>(std::numeric_limits<T>::epsilon());
}

template <class T>
void run(const Case& c) {
  const int64_t size = c.rows * c.ld;
  std::vector<T> rounded;
  for (const double x : random_values(size + 1, 3, 3.0)) rounded.push_back(static_cast<T>(x));
  const std::vector<double> scores(rounded.begin(), rounded.end());
  std::vector<double> p(scores.size()), lse(static_cast<size_t>(c.rows));
  reference(c, scores, p, lse);

  std::vector<T> got = rounded, got_lse(static_cast<size_t>(c.rows) + 1, T(7));
  const CausalStripe<T> stripe{got.data(), c.ld, c.rows, c.cols, c.first_query, T(c.scale), T(c.slope)};
  ASSERT_TRUE(causal_softmax(stripe, got_lse.data()).ok());
  std::vector<T> again = rounded;
  CausalStripe<T> second = stripe;
  second.scores = again.data();
  ASSERT_TRUE(causal_probabilities(second, got_lse.data()).ok());
  for (int64_t r = 0; r < c.rows; ++r) {
    EXPECT_NEAR(got_lse[r], lse[r], tolerance<T>() * (1 + std::abs(lse[r])));
    for (int64_t k = 0; k < c.ld; ++k) {
      const size_t i = static_cast<size_t>(r * c.ld + k);
      if (k >= c.cols) {
        EXPECT_EQ(got[i], rounded[i]) << "wrote past the row";
        EXPECT_EQ(again[i], rounded[i]);
      } else {
        EXPECT_NEAR(got[i], p[i], tolerance<T>());
        EXPECT_NEAR(again[i], p[i], tolerance<T>());
        if (k > c.first_query + r) {
          EXPECT_EQ(got[i], T(0));
        }
      }
    }
  }
  EXPECT_EQ(got_lse.back(), T(7));

  std::vector<T> grad;
  for (const double x : random_values(size, 5, 1.0)) grad.push_back(static_cast<T>(x));
  const std::vector<T> before = grad;
  std::vector<T> delta(static_cast<size_t>(c.rows), T(0.25));
  ASSERT_TRUE(causal_softmax_backward(stripe, delta.data(), grad.data()).ok());
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t k = 0; k < c.cols; ++k) {
      const size_t i = static_cast<size_t>(r * c.ld + k);
      EXPECT_NEAR(grad[i], static_cast<double>(got[i]) * (static_cast<double>(before[i]) - 0.25) * c.scale,
                  tolerance<T>());
    }
  }
}

const std::vector<Case> kCases{{1, 1, 1, 0, 1.0, 0.0},    {3, 3, 5, 0, 0.125, 0.0},
                               {64, 64, 64, 0, 0.3, 0.0}, {7, 40, 41, 33, 0.5, 0.1},
                               {5, 100, 100, 95, 1, 0.5}, {2, 17, 32, 15, 0.2, 0.0},
                               {0, 0, 0, 0, 1.0, 0.0},    {31, 513, 520, 482, 0.1, 0.02}};

TEST(CausalSoftmax, Float) {
  test::for_each_target([] {
    for (const Case& c : kCases) run<float>(c);
  });
}

TEST(CausalSoftmax, Double) {
  test::for_each_target([] {
    for (const Case& c : kCases) run<double>(c);
  });
}

TEST(CausalSoftmax, LargeLogitsDoNotOverflow) {
  std::vector<float> scores{1e4f, -1e4f, 9.9e3f, 1e4f};
  float lse[2];
  ASSERT_TRUE(causal_softmax(CausalStripe<float>{scores.data(), 2, 2, 2, 0, 1.0f, 0.0f}, lse).ok());
  EXPECT_EQ(scores, (std::vector<float>{1.0f, 0.0f, std::exp(-100.0f), 1.0f}));
}

TEST(CausalSoftmax, NaNIsNotHidden) {
  test::for_each_target([] {
    for (const size_t bad : {0, 3, 16, 20}) {
      std::vector<double> scores(21, 0.5);
      scores[bad] = std::numeric_limits<double>::quiet_NaN();
      double lse = 0;
      ASSERT_TRUE(causal_softmax(CausalStripe<double>{scores.data(), 21, 1, 21, 20, 1.0, 0.0}, &lse).ok());
      EXPECT_TRUE(std::isnan(lse));
      for (const double p : scores) EXPECT_TRUE(std::isnan(p));
    }
  });
}

TEST(CausalSoftmax, RefusesContradictions) {
  float x = 0, l = 0;
  EXPECT_FALSE(causal_softmax(CausalStripe<float>{&x, 1, 1, 2, 0, 1.0f, 0.0f}, &l).ok());
  EXPECT_FALSE(causal_softmax(CausalStripe<float>{&x, 1, 1, 1, -1, 1.0f, 0.0f}, &l).ok());
}

}  // namespace
}  // namespace axial::kernels
