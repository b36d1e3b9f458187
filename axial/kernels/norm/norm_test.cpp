// SPDX-License-Identifier: Apache-2.0
// Every implementation of norm.h against the reference in fp64, and the reference against the formula.
#include "axial/kernels/norm/norm.h"

#include <gtest/gtest.h>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

using test::Buffer;
using test::random_values;

struct Shape {
  int64_t rows, cols, gap;  // gap: unused elements after each row
};
constexpr Shape kShapes[] = {{1, 1, 0},     {3, 3, 2},  {5, 17, 0}, {70, 100, 28},
                             {200, 513, 1}, {0, 64, 0}, {2, 16, 0}};

struct Case {
  Case(NormKind kind, DType dtype, Shape shape)
      : kind(kind),
        shape(shape),
        x(dtype, random_values("x", size(), 2, 0.5)),
        dy(dtype, random_values("dy", size())),
        weight(dtype, random_values("weight", shape.cols, 1, 1)),
        bias(dtype, random_values("bias", shape.cols)) {}
  Case widened() const {
    Case wide = *this;
    for (Buffer* b : {&wide.x, &wide.dy, &wide.weight, &wide.bias}) *b = b->widened();
    return wide;
  }
  int64_t stride() const { return shape.cols + shape.gap; }
  int64_t size() const { return shape.rows * stride(); }

  NormKind kind;
  Shape shape;
  Buffer x, dy, weight, bias;
};

struct Forward {
  Buffer y, mean, rstd;
};

Forward run_forward(const Implementation<NormForward>& impl, Case c, const ParallelFor& parallel_for) {
  const DType dtype = c.x.dtype();
  Forward out{{dtype, c.size()},
              {test::statistic_type(dtype), c.shape.rows},
              {test::statistic_type(dtype), c.shape.rows}};
  const bool layer = c.kind == NormKind::kLayer;
  // Gaps of y keep their first bytes; zero compares as a number.
  for (int64_t i = 0; i < out.y.size(); ++i) out.y.set(i, 0);
  const NormForward params{.kind = c.kind,
                           .dtype = dtype,
                           .rows = c.shape.rows,
                           .cols = c.shape.cols,
                           .eps = 1e-5,
                           .x = c.x.data(),
                           .x_stride = c.stride(),
                           .weight = c.weight.data(),
                           .bias = layer ? c.bias.data() : nullptr,
                           .y = out.y.data(),
                           .y_stride = c.stride(),
                           .mean = layer ? out.mean.data() : nullptr,
                           .rstd = out.rstd.data()};
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  EXPECT_TRUE(out.y.guards_intact() && out.mean.guards_intact() && out.rstd.guards_intact());
  for (int64_t i = 0; i < out.y.size(); ++i) {
    if (i % c.stride() >= c.shape.cols) {
      EXPECT_EQ(out.y.get(i), 0) << "wrote between rows";
    }
  }
  if (!layer) {
    for (int64_t i = 0; i < out.mean.size(); ++i) out.mean.set(i, 0);
  }
  return out;
}

struct Backward {
  Buffer dx, dweight, dbias;
};

Backward run_backward(const Implementation<NormBackward>& impl, Case c, const ParallelFor& parallel_for) {
  Forward saved = run_forward(norm_forward_table().back(), c, serial_parallel_for());
  const DType dtype = c.x.dtype();
  Backward out{{dtype, c.size()}, {dtype, c.shape.cols}, {dtype, c.shape.cols}};
  for (int64_t i = 0; i < out.dx.size(); ++i) out.dx.set(i, 0);
  NormBackward params{.kind = c.kind,
                      .dtype = dtype,
                      .rows = c.shape.rows,
                      .cols = c.shape.cols,
                      .dy = c.dy.data(),
                      .dy_stride = c.stride(),
                      .x = c.x.data(),
                      .x_stride = c.stride(),
                      .weight = c.weight.data(),
                      .mean = saved.mean.data(),
                      .rstd = saved.rstd.data(),
                      .dx = out.dx.data(),
                      .dx_stride = c.stride(),
                      .dweight = out.dweight.data(),
                      .dbias = c.kind == NormKind::kLayer ? out.dbias.data() : nullptr};
  Buffer workspace(DType::kF32, workspace_bytes(params) / 4);
  params.workspace = workspace.data();
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  EXPECT_TRUE(out.dx.guards_intact() && out.dweight.guards_intact() && out.dbias.guards_intact());
  EXPECT_TRUE(workspace.guards_intact());
  if (c.kind == NormKind::kRms) {
    for (int64_t i = 0; i < out.dbias.size(); ++i) out.dbias.set(i, 0);
  }
  return out;
}

template <class Body>
void for_each_case(const Body& body) {
  for (const NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const Shape& shape : kShapes) {
        SCOPED_TRACE(fmt::format("{} {} {}x{}+{}", kind == NormKind::kLayer ? "layer" : "rms", name_of(dtype),
                                 shape.rows, shape.cols, shape.gap));
        test::for_each_target([&] { body(Case(kind, dtype, shape)); });
      }
    }
  }
}

TEST(Norm, ForwardIsWithinTwiceThePlainLoops) {
  for_each_case([](const Case& c) {
    const auto& reference = norm_forward_table().back();
    Forward truth = run_forward(reference, c.widened(), serial_parallel_for());
    Forward plain = run_forward(reference, c, serial_parallel_for());
    for (const auto& impl : norm_forward_table().first(1)) {
      Forward actual = run_forward(impl, c, serial_parallel_for());
      EXPECT_TRUE(test::within_twice(actual.y, plain.y, truth.y));
      EXPECT_TRUE(test::within_twice(actual.mean, plain.mean, truth.mean, test::largest(c.x)));
      // Four roundings after the sum: division, eps, root, inverse.
      EXPECT_TRUE(test::within_twice(actual.rstd, plain.rstd, truth.rstd, 4 * test::largest(truth.rstd)));
    }
  });
}

TEST(Norm, BackwardIsWithinTwiceThePlainLoops) {
  for_each_case([](const Case& c) {
    const auto& reference = norm_backward_table().back();
    Backward truth = run_backward(reference, c.widened(), serial_parallel_for());
    Backward plain = run_backward(reference, c, serial_parallel_for());
    Forward saved = run_forward(norm_forward_table().back(), c, serial_parallel_for());
    const double g = test::largest(c.dy) * test::largest(c.weight);
    for (const auto& impl : norm_backward_table().first(1)) {
      Backward actual = run_backward(impl, c, serial_parallel_for());
      EXPECT_TRUE(test::within_twice(actual.dx, plain.dx, truth.dx, g * test::largest(saved.rstd)));
      EXPECT_TRUE(test::within_twice(actual.dweight, plain.dweight, truth.dweight, test::largest(c.dy)));
      EXPECT_TRUE(test::within_twice(actual.dbias, plain.dbias, truth.dbias, test::largest(c.dy)));
    }
  });
}

TEST(Norm, BitwiseEqualForAnyNumberOfThreads) {
  for (const NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    const Case c(kind, DType::kF32, {517, 100, 0});
    for (const auto& impl : norm_forward_table()) {
      test::expect_equal_for_any_threads([&](const ParallelFor& parallel_for) {
        Forward out = run_forward(impl, c, parallel_for);
        return std::vector<Buffer>{out.y, out.mean, out.rstd};
      });
    }
    for (const auto& impl : norm_backward_table()) {
      test::expect_equal_for_any_threads([&](const ParallelFor& parallel_for) {
        Backward out = run_backward(impl, c, parallel_for);
        return std::vector<Buffer>{out.dx, out.dweight, out.dbias};
      });
    }
  }
}

TEST(Norm, ReferenceFollowsTheFormula) {
  Case c(NormKind::kLayer, DType::kF64, {1, 4, 0});
  const double x[] = {1, 2, 3, 6};  // mean 3, variance 3.5
  for (int i = 0; i < 4; ++i) c.x.set(i, x[i]);
  Forward out = run_forward(norm_forward_table().back(), c, serial_parallel_for());
  const double rstd = 1 / std::sqrt(3.5 + 1e-5);
  EXPECT_DOUBLE_EQ(out.rstd.get(0), rstd);
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(out.y.get(i), (x[i] - 3) * rstd * c.weight.get(i) + c.bias.get(i), 1e-14);
  }
}

// Central differences of sum(y * dy) by x, weight and bias.
TEST(Norm, ReferenceBackwardIsTheDerivative) {
  for (const NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    const Case c(kind, DType::kF64, {3, 5, 1});
    Backward gradient = run_backward(norm_backward_table().back(), c, serial_parallel_for());
    const auto value = [&](Case moved) {
      Forward out = run_forward(norm_forward_table().back(), moved, serial_parallel_for());
      double sum = 0;
      for (int64_t i = 0; i < moved.size(); ++i) {
        if (i % moved.stride() < moved.shape.cols) sum += out.y.get(i) * moved.dy.get(i);
      }
      return sum;
    };
    const auto check = [&](Buffer Case::*input, Buffer& expected) {
      for (int64_t i = 0; i < expected.size(); ++i) {
        Case up = c, down = c;
        (up.*input).set(i, (up.*input).get(i) + 1e-6);
        (down.*input).set(i, (down.*input).get(i) - 1e-6);
        EXPECT_NEAR((value(up) - value(down)) / 2e-6, expected.get(i), 1e-7) << i;
      }
    };
    check(&Case::x, gradient.dx);
    check(&Case::weight, gradient.dweight);
    if (kind == NormKind::kLayer) check(&Case::bias, gradient.dbias);
  }
}

TEST(Norm, RefusesWhatItCannotServe) {
  NormForward params{.dtype = DType::kI32, .rows = 1, .cols = 1};
  EXPECT_EQ(norm_forward(params, serial_parallel_for()).code, StatusCode::kUnsupported);
  params = {.dtype = DType::kF32, .rows = 1, .cols = 0};
  EXPECT_EQ(norm_forward(params, serial_parallel_for()).code, StatusCode::kInvalid);
  EXPECT_FALSE(norm_forward_table().front().supports(NormForward{.dtype = DType::kF64}).ok());
}

}  // namespace
}  // namespace axial::kernels
