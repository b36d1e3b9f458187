// SPDX-License-Identifier: Apache-2.0
#include "axial/kernels/rotary/rotary.h"

#include <gtest/gtest.h>

#include <complex>
#include <limits>
#include <optional>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

using test::Buffer;
using test::random_values;

struct Shape {
  int64_t tokens, heads, head_dim, pairs, head_gap, token_gap;
};
constexpr Shape kShapes[] = {{5, 2, 8, 4, 0, 0},       {7, 3, 64, 16, 0, 0}, {3, 1, 300, 141, 5, 9},
                             {33, 8, 64, 8, 64, 128},  {1, 1, 2, 1, 0, 0},   {4, 2, 7, 3, 1, 0},
                             {200, 4, 128, 64, 0, 77}, {2, 3, 5, 0, 0, 1},   {0, 2, 8, 4, 0, 0}};

struct Case {
  Case(DType dtype, Shape s) : shape(s), x(dtype, random_values("x", s.tokens * token_stride())) {
    for (int64_t t = 0; t < s.tokens; ++t) positions.push_back(t % 7 == 3 ? -t : t * t * 97);
    if (s.tokens > 1) positions[1] = int64_t{3} << 40;  // beyond the fast reduction
    for (int64_t i = 0; i < s.pairs; ++i) {
      inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(s.pairs)));
    }
  }
  int64_t head_stride() const { return shape.head_dim + shape.head_gap; }
  int64_t token_stride() const { return shape.heads * head_stride() + shape.token_gap; }

  Shape shape;
  Buffer x;
  std::vector<int64_t> positions;
  std::vector<double> inv_freq;
};

// The rotated buffer; in place when `x` is given as the target.
Buffer run(const Implementation<Rotary>& impl, Case c, const ParallelFor& parallel_for, bool inverse = false,
           bool in_place = false) {
  Buffer y(c.x.dtype(), c.x.size());
  for (int64_t i = 0; i < y.size(); ++i) y.set(i, in_place ? c.x.get(i) : 0);
  const Rotary params{.dtype = c.x.dtype(),
                      .tokens = c.shape.tokens,
                      .heads = c.shape.heads,
                      .head_dim = c.shape.head_dim,
                      .pairs = c.shape.pairs,
                      .x = in_place ? y.data() : c.x.data(),
                      .x_token_stride = c.token_stride(),
                      .x_head_stride = c.head_stride(),
                      .y = y.data(),
                      .y_token_stride = c.token_stride(),
                      .y_head_stride = c.head_stride(),
                      .positions = c.positions.data(),
                      .inv_freq = c.inv_freq.data(),
                      .inverse = inverse};
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  EXPECT_TRUE(y.guards_intact());
  return y;
}

bool in_head(const Case& c, int64_t i) {
  const int64_t in_token = i % c.token_stride();
  return in_token < c.shape.heads * c.head_stride() && in_token % c.head_stride() < c.shape.head_dim;
}

TEST(Rotary, TurnsPairsAsComplexNumbers) {
  for (const Shape& shape : kShapes) {
    Case c(DType::kF64, shape);
    Buffer y = run(rotary_table().back(), c, serial_parallel_for());
    for (int64_t i = 0; i < y.size(); ++i) {
      if (!in_head(c, i)) {
        EXPECT_EQ(y.get(i), 0) << "wrote between heads";
        continue;
      }
      const int64_t token = i / c.token_stride(), entry = i % c.token_stride() % c.head_stride();
      double expected = c.x.get(i);
      if (entry < 2 * shape.pairs) {
        const int64_t pair = entry % shape.pairs, first = i - entry + pair;
        const double angle = static_cast<double>(c.positions[static_cast<size_t>(token)]) *
                             c.inv_freq[static_cast<size_t>(pair)];
        const std::complex<double> turned =
            std::complex<double>(c.x.get(first), c.x.get(first + shape.pairs)) * std::polar(1.0, angle);
        expected = entry < shape.pairs ? turned.real() : turned.imag();
      }
      EXPECT_NEAR(y.get(i), expected, 1e-14);  // a few roundings of values up to 5
    }
  }
}

TEST(Rotary, VectorsErrAtMostTwiceAsPlainLoops) {
  test::for_each_target([] {
    for (const DType dtype : test::kFloatTypes) {
      for (const Shape& shape : kShapes) {
        for (const bool inverse : {false, true}) {
          SCOPED_TRACE(
              fmt::format("{} {} x {} x {}", name_of(dtype), shape.tokens, shape.heads, shape.head_dim));
          Case c(dtype, shape), wide = c;
          wide.x = c.x.widened();
          Buffer fast = run(rotary_table().front(), c, serial_parallel_for(), inverse);
          Buffer plain = run(rotary_table().back(), c, serial_parallel_for(), inverse);
          Buffer truth = run(rotary_table().back(), wide, serial_parallel_for(), inverse);
          // In fp64 the truth is the plain loops: allow Highway's sine, 3 units in the last place in each
          // of two terms, and the roundings of the rotation.
          const double terms = dtype == DType::kF64 ? 16 * test::largest(truth) : 0;
          EXPECT_TRUE(test::within_twice(fast, plain, truth, terms));
        }
      }
    }
  });
}

TEST(Rotary, InverseUndoesIt) {
  for (const auto& impl : rotary_table()) {
    Case c(DType::kF64, kShapes[3]);
    Case back = c;
    back.x = run(impl, c, serial_parallel_for());
    Buffer again = run(impl, back, serial_parallel_for(), true);
    for (int64_t i = 0; i < again.size(); ++i) {
      if (in_head(c, i)) {
        EXPECT_NEAR(again.get(i), c.x.get(i), 1e-14);
      }
    }
  }
}

TEST(Rotary, InPlaceGivesTheSameBits) {
  for (const auto& impl : rotary_table()) {
    for (const DType dtype : test::kFloatTypes) {
      for (const Shape& shape : kShapes) {
        Case c(dtype, shape);
        Buffer apart = run(impl, c, serial_parallel_for());
        Buffer in_place = run(impl, c, serial_parallel_for(), false, true);
        for (int64_t i = 0; i < apart.size(); ++i) {
          EXPECT_EQ(in_place.get(i), in_head(c, i) ? apart.get(i) : c.x.get(i));
        }
      }
    }
  }
}

TEST(Rotary, SameBitsForAnyThreads) {
  for (const auto& impl : rotary_table()) {
    for (const DType dtype : test::kFloatTypes) {
      Case c(dtype, {333, 3, 40, 10, 2, 1});
      test::expect_equal_for_any_threads(
          [&](const ParallelFor& parallel_for) { return std::vector<Buffer>{run(impl, c, parallel_for)}; });
    }
  }
}

TEST(Rotary, RefusesWrongArguments) {
  const std::vector<double> inv_freq{1.0, std::numeric_limits<double>::infinity()};
  double x[8] = {};
  const int64_t position = 1;
  const Rotary good{.dtype = DType::kF64,
                    .tokens = 1,
                    .heads = 1,
                    .head_dim = 8,
                    .pairs = 1,
                    .x = x,
                    .x_token_stride = 8,
                    .x_head_stride = 8,
                    .y = x,
                    .y_token_stride = 8,
                    .y_head_stride = 8,
                    .positions = &position,
                    .inv_freq = inv_freq.data()};
  const auto code = [&](auto change) {
    Rotary params = good;
    change(params);
    return rotary(params, serial_parallel_for()).code;
  };
  EXPECT_EQ(code([](Rotary&) {}), StatusCode::kOk);
  EXPECT_EQ(code([](Rotary& p) { p.pairs = 2; }), StatusCode::kInvalid);  // an infinite frequency
  EXPECT_EQ(code([](Rotary& p) { p.pairs = 5; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](Rotary& p) { p.tokens = -1; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](Rotary& p) { p.y_token_stride = 9; }), StatusCode::kInvalid);
  EXPECT_EQ(code([](Rotary& p) { p.dtype = DType::kI32; }), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace axial::kernels
