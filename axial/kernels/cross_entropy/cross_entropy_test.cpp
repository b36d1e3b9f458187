// SPDX-License-Identifier: Apache-2.0
// Every implementation of cross_entropy.h against the reference in fp64, and the reference against the
// formula in long double.
#include "axial/kernels/cross_entropy/cross_entropy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

using test::Buffer;

struct Shape {
  int64_t rows, cols, gap;
};
constexpr Shape kShapes[] = {{1, 1, 0}, {3, 3, 2}, {40, 69, 0}, {17, 100, 4}, {9, 513, 7}, {0, 5, 0}};

struct Case {
  Case(DType dtype, Shape s)
      : shape(s), logits(dtype, test::random_values("logits", s.rows * (s.cols + s.gap), 4, 1)) {
    for (int64_t r = 0; r < s.rows; ++r) labels.push_back(r % 5 == 3 ? -100 : (r * 37) % s.cols);
  }
  Shape shape;
  Buffer logits;
  std::vector<int64_t> labels;
};

struct Results {
  Buffer lse, likelihood, grad;
  double sum = -1, weight = -1;
};

Results run(const Implementation<CrossEntropyForward>& forward,
            const Implementation<CrossEntropyBackward>& backward, Case c, const ParallelFor& parallel_for) {
  const DType dtype = c.logits.dtype(), statistic = test::statistic_type(dtype);
  Results out{{statistic, c.shape.rows}, {statistic, c.shape.rows}, {dtype, c.shape.rows * c.shape.cols}};
  const CrossEntropyForward f{.dtype = dtype,
                              .rows = c.shape.rows,
                              .cols = c.shape.cols,
                              .logits = c.logits.data(),
                              .stride = c.shape.cols + c.shape.gap,
                              .labels = c.labels.data(),
                              .log_sum_exp = out.lse.data(),
                              .log_likelihood = out.likelihood.data()};
  EXPECT_TRUE(forward.run(f, parallel_for).ok());
  const CrossEntropyBackward b{.dtype = dtype,
                               .rows = c.shape.rows,
                               .cols = c.shape.cols,
                               .logits = c.logits.data(),
                               .stride = c.shape.cols + c.shape.gap,
                               .labels = c.labels.data(),
                               .log_sum_exp = out.lse.data(),
                               .scale = 0.25,
                               .grad_logits = out.grad.data()};
  EXPECT_TRUE(backward.run(b, parallel_for).ok());
  EXPECT_TRUE(out.lse.guards_intact() && out.likelihood.guards_intact() && out.grad.guards_intact());
  return out;
}

Results reference(const Case& c) {
  return run(cross_entropy_forward_table().back(), cross_entropy_backward_table().back(), c,
             serial_parallel_for());
}

TEST(CrossEntropy, ReferenceFollowsTheFormula) {
  for (const Shape& shape : kShapes) {
    Case c(DType::kF64, shape);
    Results got = reference(c);
    for (int64_t r = 0; r < shape.rows; ++r) {
      long double sum = 0;
      for (int64_t k = 0; k < shape.cols; ++k)
        sum += std::exp(static_cast<long double>(c.logits.get(r * (shape.cols + shape.gap) + k)));
      const int64_t label = c.labels[static_cast<size_t>(r)];
      EXPECT_NEAR(got.lse.get(r), static_cast<double>(std::log(sum)), 1e-13);
      for (int64_t k = 0; k < shape.cols; ++k) {
        const long double logit = c.logits.get(r * (shape.cols + shape.gap) + k);
        const double expected =
            label < 0 ? 0.0 : static_cast<double>((std::exp(logit) / sum - (k == label ? 1 : 0)) * 0.25L);
        EXPECT_NEAR(got.grad.get(r * shape.cols + k), expected, 1e-14);
        if (k == label) {
          EXPECT_NEAR(got.likelihood.get(r), static_cast<double>(logit - std::log(sum)), 1e-13);
        }
      }
      if (label < 0) {
        EXPECT_EQ(got.likelihood.get(r), 0);
      }
    }
  }
}

TEST(CrossEntropy, EveryImplementationErrsAtMostTwiceAsMuchAsPlainLoops) {
  for (const DType dtype : test::kFloatTypes) {
    for (const Shape& shape : kShapes) {
      const Case c(dtype, shape);
      Case wide = c;
      wide.logits = Case(c).logits.widened();
      Results truth = reference(wide), plain = reference(c);
      for (size_t i = 0; i < cross_entropy_forward_table().size(); ++i) {
        const auto& forward = cross_entropy_forward_table()[i];
        if (!forward.supports(CrossEntropyForward{.dtype = dtype}).ok()) continue;
        test::for_each_target([&] {
          Results got = run(forward, cross_entropy_backward_table()[i], c, thread_parallel_for(3));
          EXPECT_TRUE(test::within_twice(got.lse, plain.lse, truth.lse)) << forward.name;
          EXPECT_TRUE(test::within_twice(got.likelihood, plain.likelihood, truth.likelihood, 8))
              << forward.name;
          EXPECT_TRUE(test::within_twice(got.grad, plain.grad, truth.grad)) << forward.name;
        });
      }
    }
  }
}

TEST(CrossEntropy, BitwiseEqualForAnyThreads) {
  const Case c(DType::kF32, {300, 69, 0});
  test::expect_equal_for_any_threads([&](const ParallelFor& parallel_for) {
    const Results r =
        run(cross_entropy_forward_table()[0], cross_entropy_backward_table()[0], c, parallel_for);
    return std::vector<Buffer>{r.lse, r.likelihood, r.grad};
  });
}

TEST(CrossEntropy, SumAndWeightLeaveIgnoredRowsOut) {
  Case c(DType::kF32, {10, 7, 0});
  Buffer lse(DType::kF32, 10), likelihood(DType::kF32, 10);
  double sum = -1, weight = -1, expected = 0;
  const CrossEntropyForward params{.rows = 10,
                                   .cols = 7,
                                   .logits = c.logits.data(),
                                   .stride = 7,
                                   .labels = c.labels.data(),
                                   .log_sum_exp = lse.data(),
                                   .log_likelihood = likelihood.data(),
                                   .sum = &sum,
                                   .weight = &weight};
  ASSERT_TRUE(cross_entropy_forward(params, serial_parallel_for()).ok());
  for (int64_t r = 0; r < 10; ++r) expected -= likelihood.get(r);
  EXPECT_DOUBLE_EQ(sum, expected);
  EXPECT_EQ(weight, 8);  // rows 3 and 8 are ignored
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  Buffer logits(DType::kF32, std::vector<double>{1e30, -1e30, 1e30});
  Buffer lse(DType::kF32, 1), likelihood(DType::kF32, 1);
  const int64_t label = 0;
  const CrossEntropyForward params{.rows = 1,
                                   .cols = 3,
                                   .logits = logits.data(),
                                   .stride = 3,
                                   .labels = &label,
                                   .log_sum_exp = lse.data(),
                                   .log_likelihood = likelihood.data()};
  ASSERT_TRUE(cross_entropy_forward(params, serial_parallel_for()).ok());
  EXPECT_TRUE(std::isfinite(lse.get(0)));
}

TEST(CrossEntropy, NaNIsNotHidden) {
  for (const int64_t bad : {0, 3, 16, 68}) {
    for (size_t i = 0; i < cross_entropy_forward_table().size(); ++i) {
      test::for_each_target([&] {
        Case c(DType::kF32, {1, 69, 0});
        c.logits.set(bad, std::numeric_limits<double>::quiet_NaN());
        Results out = run(cross_entropy_forward_table()[i], cross_entropy_backward_table()[i], c,
                          serial_parallel_for());
        EXPECT_TRUE(std::isnan(out.lse.get(0)) && std::isnan(out.likelihood.get(0)));
        EXPECT_TRUE(std::isnan(out.grad.get(bad)));
      });
    }
  }
}

TEST(CrossEntropy, BadLabelsAreNamed) {
  Case c(DType::kF32, {4, 7, 0});
  c.labels = {0, -100, 7, 1};
  Buffer lse(DType::kF32, 4);
  CrossEntropyForward params{.rows = 4,
                             .cols = 7,
                             .logits = c.logits.data(),
                             .stride = 7,
                             .labels = c.labels.data(),
                             .log_sum_exp = lse.data()};
  const Status status = cross_entropy_forward(params, serial_parallel_for());
  EXPECT_EQ(status.code, StatusCode::kInvalid);
  EXPECT_THAT(status.text, testing::HasSubstr("row 2"));
  params.cols = 0;
  EXPECT_FALSE(cross_entropy_forward(params, serial_parallel_for()).ok());
}

}  // namespace
}  // namespace axial::kernels
