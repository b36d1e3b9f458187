// SPDX-License-Identifier: Apache-2.0
// Every implementation of activation.h against the reference in fp64, and the reference against known
// values and central differences.
#include "axial/kernels/activation/activation.h"

#include <gtest/gtest.h>

#include <limits>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

using test::Buffer;
using test::random_values;

constexpr Activation kKinds[] = {Activation::kGeluErf, Activation::kGeluTanh, Activation::kSilu,
                                 Activation::kRelu};

struct Shape {
  int64_t rows, cols, gap;  // gap: unused elements after each row
};
constexpr Shape kShapes[] = {{1, 1, 0}, {3, 3, 2}, {5, 17, 0}, {66, 33, 28}, {3, 513, 1}, {0, 64, 0}};

struct Case {
  Case(Activation kind, DType dtype, Shape shape, bool with_bias)
      : kind(kind),
        shape(shape),
        with_bias(with_bias),
        x(dtype, random_values("x", shape.rows * (2 * shape.cols + shape.gap), 3)),
        dy(dtype, random_values("dy", shape.rows * (shape.cols + shape.gap))),
        bias(dtype, random_values("bias", shape.cols)) {}
  Case widened() const {
    Case wide = *this;
    for (Buffer* b : {&wide.x, &wide.dy, &wide.bias}) *b = b->widened();
    return wide;
  }
  int64_t stride() const { return shape.cols + shape.gap; }
  int64_t wide_stride() const { return 2 * shape.cols + shape.gap; }

  Activation kind;
  Shape shape;
  bool with_bias;
  Buffer x, dy, bias;  // x has rows of 2 C: gate and up; plain kernels read the first C
};

Buffer zeros(DType dtype, int64_t count) { return {dtype, std::vector<double>(static_cast<size_t>(count))}; }

void expect_clean(const Buffer& buffer) { EXPECT_TRUE(buffer.guards_intact()); }

void expect_gaps_untouched(Buffer& buffer, int64_t stride, int64_t cols) {
  for (int64_t i = 0; i < buffer.size(); ++i) {
    if (i % stride >= cols) {
      EXPECT_EQ(buffer.get(i), 0) << "wrote between rows at " << i;
    }
  }
}

Buffer run(const Implementation<ActivationForward>& impl, Case c, const ParallelFor& parallel_for) {
  Buffer y = zeros(c.x.dtype(), c.shape.rows * c.stride());
  const ActivationForward params{.kind = c.kind,
                                 .dtype = c.x.dtype(),
                                 .rows = c.shape.rows,
                                 .cols = c.shape.cols,
                                 .x = c.x.data(),
                                 .x_stride = c.wide_stride(),
                                 .bias = c.with_bias ? c.bias.data() : nullptr,
                                 .y = y.data(),
                                 .y_stride = c.stride()};
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  expect_clean(y);
  expect_gaps_untouched(y, c.stride(), c.shape.cols);
  return y;
}

struct Gradients {
  Buffer dx, dbias;
};

Gradients run(const Implementation<ActivationBackward>& impl, Case c, const ParallelFor& parallel_for) {
  const DType dtype = c.x.dtype();
  Gradients out{zeros(dtype, c.shape.rows * c.stride()), zeros(dtype, c.shape.cols)};
  ActivationBackward params{.kind = c.kind,
                            .dtype = dtype,
                            .rows = c.shape.rows,
                            .cols = c.shape.cols,
                            .dy = c.dy.data(),
                            .dy_stride = c.stride(),
                            .x = c.x.data(),
                            .x_stride = c.wide_stride(),
                            .bias = c.with_bias ? c.bias.data() : nullptr,
                            .dx = out.dx.data(),
                            .dx_stride = c.stride(),
                            .dbias = c.with_bias ? out.dbias.data() : nullptr};
  Buffer workspace(DType::kF32, workspace_bytes(params) / 4);
  params.workspace = workspace.data();
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  for (const Buffer& b : {out.dx, out.dbias, workspace}) expect_clean(b);
  expect_gaps_untouched(out.dx, c.stride(), c.shape.cols);
  return out;
}

Buffer run(const Implementation<GatedForward>& impl, Case c, const ParallelFor& parallel_for) {
  Buffer y = zeros(c.x.dtype(), c.shape.rows * c.stride());
  const GatedForward params{.kind = c.kind,
                            .dtype = c.x.dtype(),
                            .rows = c.shape.rows,
                            .cols = c.shape.cols,
                            .gate_up = c.x.data(),
                            .gate_up_stride = c.wide_stride(),
                            .y = y.data(),
                            .y_stride = c.stride()};
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  expect_clean(y);
  expect_gaps_untouched(y, c.stride(), c.shape.cols);
  return y;
}

Buffer run(const Implementation<GatedBackward>& impl, Case c, const ParallelFor& parallel_for) {
  Buffer gradient = zeros(c.x.dtype(), c.shape.rows * c.wide_stride());
  const GatedBackward params{.kind = c.kind,
                             .dtype = c.x.dtype(),
                             .rows = c.shape.rows,
                             .cols = c.shape.cols,
                             .dy = c.dy.data(),
                             .dy_stride = c.stride(),
                             .gate_up = c.x.data(),
                             .gate_up_stride = c.wide_stride(),
                             .dgate_up = gradient.data(),
                             .dgate_up_stride = c.wide_stride()};
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  expect_clean(gradient);
  expect_gaps_untouched(gradient, c.wide_stride(), 2 * c.shape.cols);
  return gradient;
}

template <class Body>
void for_each_case(const Body& body) {
  for (const Activation kind : kKinds) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const Shape& shape : kShapes) {
        for (const bool with_bias : {false, true}) {
          SCOPED_TRACE(fmt::format("kind {} {} {}x{}+{} bias {}", static_cast<int>(kind), name_of(dtype),
                                   shape.rows, shape.cols, shape.gap, with_bias));
          test::for_each_target([&] { body(Case(kind, dtype, shape, with_bias)); });
        }
      }
    }
  }
}

TEST(Activation, VectorsAreWithinTwiceThePlainLoops) {
  const ParallelFor serial = serial_parallel_for();
  for_each_case([&](const Case& c) {
    const auto forward = activation_forward_table();
    Buffer truth = run(forward.back(), c.widened(), serial), plain = run(forward.back(), c, serial);
    Buffer y = run(forward.front(), c, serial);
    EXPECT_TRUE(test::within_twice(y, plain, truth));

    const auto backward = activation_backward_table();
    Gradients true_gradients = run(backward.back(), c.widened(), serial);
    Gradients plain_gradients = run(backward.back(), c, serial);
    Gradients gradients = run(backward.front(), c, serial);
    // The slope is a sum of terms up to 1 that may cancel.
    const double terms = 2 * test::largest(c.dy);
    EXPECT_TRUE(test::within_twice(gradients.dx, plain_gradients.dx, true_gradients.dx, terms));
    EXPECT_TRUE(test::within_twice(gradients.dbias, plain_gradients.dbias, true_gradients.dbias, terms));
  });
}

TEST(Activation, GatedVectorsAreWithinTwiceThePlainLoops) {
  const ParallelFor serial = serial_parallel_for();
  for_each_case([&](const Case& c) {
    const auto forward = gated_forward_table();
    Buffer truth = run(forward.back(), c.widened(), serial), plain = run(forward.back(), c, serial);
    Buffer y = run(forward.front(), c, serial);
    EXPECT_TRUE(test::within_twice(y, plain, truth));

    const auto backward = gated_backward_table();
    Buffer true_gradient = run(backward.back(), c.widened(), serial);
    Buffer plain_gradient = run(backward.back(), c, serial);
    Buffer gradient = run(backward.front(), c, serial);
    // Three multiplications round after the slope.
    EXPECT_TRUE(
        test::within_twice(gradient, plain_gradient, true_gradient, 3 * test::largest(true_gradient)));
  });
}

TEST(Activation, BitwiseEqualForAnyNumberOfThreads) {
  for (const Activation kind : kKinds) {
    const Case c(kind, DType::kF32, {517, 100, 3}, true);
    for (size_t i = 0; i < 2; ++i) {
      test::expect_equal_for_any_threads([&](const ParallelFor& parallel_for) {
        Gradients g = run(activation_backward_table()[i], c, parallel_for);
        return std::vector<Buffer>{run(activation_forward_table()[i], c, parallel_for), g.dx, g.dbias,
                                   run(gated_forward_table()[i], c, parallel_for),
                                   run(gated_backward_table()[i], c, parallel_for)};
      });
    }
  }
}

// Relative to the value itself, all the way down the left tail, where 1 + erf has no digits left.
TEST(Activation, GeluKeepsItsDigitsInTheTail) {
  Case c(Activation::kGeluErf, DType::kF32, {1, 241, 0}, false);
  for (int64_t i = 0; i < 241; ++i) c.x.set(i, (static_cast<double>(i) - 120) / 10);
  Buffer y = run(activation_forward_table().front(), c, serial_parallel_for());
  Buffer truth = run(activation_forward_table().back(), c.widened(), serial_parallel_for());
  for (int64_t i = 0; i < 241; ++i) {
    const double x = c.x.get(i);
    // x^2 / 2 rounds by 2^-24 of itself; a few more roundings elsewhere.
    const double allowed = (0.5 * x * x + 6) * test::rounding(DType::kF32) * std::abs(truth.get(i));
    EXPECT_NEAR(y.get(i), truth.get(i), allowed) << "x = " << x;
  }
}

TEST(Activation, ExtremesStayFiniteAndNaNIsNotHidden) {
  for (const Activation kind : kKinds) {
    for (const auto& impl : activation_forward_table()) {
      Case c(kind, DType::kF32, {1, 5, 0}, false);
      const double x[] = {-1e4, 1e4, -200, 0, std::numeric_limits<double>::quiet_NaN()};
      const double expected[] = {0, 1e4, 0, 0};
      for (int i = 0; i < 5; ++i) c.x.set(i, x[i]);
      Buffer y = run(impl, c, serial_parallel_for());
      for (int i = 0; i < 4; ++i) EXPECT_NEAR(y.get(i), expected[i], 1e-30) << impl.name << " " << x[i];
      EXPECT_TRUE(std::isnan(y.get(4))) << impl.name;
    }
    for (const auto& impl : activation_backward_table()) {
      Case c(kind, DType::kF32, {1, 4, 0}, false);
      const double x[] = {-1e4, 1e4, -200, 200};
      for (int i = 0; i < 4; ++i) c.x.set(i, x[i]);
      Gradients g = run(impl, c, serial_parallel_for());
      for (int i = 0; i < 4; ++i) {
        EXPECT_NEAR(g.dx.get(i), x[i] < 0 ? 0 : c.dy.get(i), 1e-30) << impl.name << " " << x[i];
      }
    }
  }
}

TEST(Activation, ReferenceHasTheKnownValues) {
  const double at_one[] = {0.84134474606854293, 0.84119199060827676, 0.73105857863000490, 1};
  for (size_t k = 0; k < 4; ++k) {
    Case c(kKinds[k], DType::kF64, {1, 1, 0}, false);
    c.x.set(0, 1);
    c.x.set(1, 3);  // up
    EXPECT_NEAR(run(activation_forward_table().back(), c, serial_parallel_for()).get(0), at_one[k], 1e-14);
    EXPECT_NEAR(run(gated_forward_table().back(), c, serial_parallel_for()).get(0), 3 * at_one[k], 1e-14);
  }
}

TEST(Activation, ReferenceBackwardIsTheDerivative) {
  constexpr double kStep = 1e-6;
  for (const Activation kind : kKinds) {
    const Case c(kind, DType::kF64, {3, 5, 1}, true);
    Gradients g = run(activation_backward_table().back(), c, serial_parallel_for());
    Buffer gated = run(gated_backward_table().back(), c, serial_parallel_for());
    const auto value = [&](const auto& table, Case moved) {
      Buffer y = run(table.back(), moved, serial_parallel_for());
      double sum = 0;
      for (int64_t i = 0; i < y.size(); ++i) sum += y.get(i) * moved.dy.get(i);  // gaps of y are zero
      return sum;
    };
    const auto difference = [&](const auto& table, Buffer Case::*input, int64_t i) {
      Case up = c, down = c;
      (up.*input).set(i, (up.*input).get(i) + kStep);
      (down.*input).set(i, (down.*input).get(i) - kStep);
      return (value(table, up) - value(table, down)) / (2 * kStep);
    };
    for (int64_t i = 0; i < c.x.size(); ++i) {
      const int64_t row = i / c.wide_stride(), col = i % c.wide_stride();
      EXPECT_NEAR(difference(gated_forward_table(), &Case::x, i), gated.get(i), 1e-7);
      if (col < c.shape.cols) {
        EXPECT_NEAR(difference(activation_forward_table(), &Case::x, i), g.dx.get(row * c.stride() + col),
                    1e-7);
      }
    }
    for (int64_t i = 0; i < c.bias.size(); ++i) {
      EXPECT_NEAR(difference(activation_forward_table(), &Case::bias, i), g.dbias.get(i), 1e-7);
    }
  }
}

TEST(Activation, RefusesWhatItCannotServe) {
  EXPECT_EQ(activation_forward({.dtype = DType::kI32, .rows = 1, .cols = 1}, serial_parallel_for()).code,
            StatusCode::kUnsupported);
  EXPECT_EQ(gated_forward({.rows = -1, .cols = 1}, serial_parallel_for()).code, StatusCode::kInvalid);
}

}  // namespace
}  // namespace axial::kernels
