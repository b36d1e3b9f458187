// SPDX-License-Identifier: Apache-2.0
#include "axial/kernels/embedding/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

using test::Buffer;
using test::random_values;

struct Shape {
  int64_t rows, cols, count, gap;
  bool skewed;  // most ids are one of two
};
constexpr Shape kShapes[] = {{69, 130, 700, 0, false}, {69, 512, 300, 3, true}, {1, 17, 50, 0, false},
                             {1000, 64, 40, 1, false}, {5, 1, 9, 0, true},      {7, 63, 0, 2, false},
                             {20, 257, 100, 0, true}};

struct Case {
  Case(DType dtype, Shape s) : shape(s), gradient(dtype, random_values("dout", s.count * stride())) {
    for (int64_t i = 0; i < s.count; ++i) {
      const auto u = static_cast<uint64_t>(i);
      const bool common = s.skewed && random_below(root_key(2), u, 10) != 0;
      ids.push_back(static_cast<int64_t>(random_below(
          root_key(3), u, static_cast<uint64_t>(common ? std::min<int64_t>(2, s.rows) : s.rows))));
    }
  }
  int64_t stride() const { return shape.cols + shape.gap; }

  Shape shape;
  Buffer gradient;
  std::vector<int64_t> ids;
};

Buffer run(const Implementation<EmbeddingBackward>& impl, Case c, const ParallelFor& parallel_for) {
  Buffer dweight(c.gradient.dtype(), c.shape.rows * c.stride());
  for (int64_t i = 0; i < dweight.size(); ++i) {
    if (i % c.stride() >= c.shape.cols) dweight.set(i, 5);
  }
  EmbeddingBackward params{.dtype = c.gradient.dtype(),
                           .rows = c.shape.rows,
                           .cols = c.shape.cols,
                           .count = c.shape.count,
                           .ids = c.ids.data(),
                           .dout = c.gradient.data(),
                           .dout_stride = c.stride(),
                           .dweight = dweight.data(),
                           .dweight_stride = c.stride()};
  Buffer workspace(DType::kF64, workspace_bytes(params) / 8);
  params.workspace = workspace.data();
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  EXPECT_TRUE(dweight.guards_intact());
  EXPECT_TRUE(workspace.guards_intact());
  return dweight;
}

TEST(EmbeddingForward, CopiesRows) {
  for (const DType dtype : test::kFloatTypes) {
    const int64_t rows = 11, cols = 37, stride = 40, out_stride = 41;
    Buffer weight(dtype, random_values("weight", rows * stride));
    const std::vector<int64_t> ids{10, 0, 3, 3, 7};
    Buffer out(dtype, 5 * out_stride);
    for (int64_t i = 0; i < out.size(); ++i) out.set(i, -1);
    const EmbeddingForward params{.dtype = dtype,
                                  .rows = rows,
                                  .cols = cols,
                                  .count = 5,
                                  .weight = weight.data(),
                                  .weight_stride = stride,
                                  .ids = ids.data(),
                                  .out = out.data(),
                                  .out_stride = out_stride};
    ASSERT_TRUE(embedding_forward(params, thread_parallel_for(3)).ok());
    EXPECT_TRUE(out.guards_intact());
    for (int64_t i = 0; i < out.size(); ++i) {
      const int64_t c = i % out_stride;
      EXPECT_EQ(out.get(i),
                c < cols ? weight.get(ids[static_cast<size_t>(i / out_stride)] * stride + c) : -1);
    }
  }
}

TEST(EmbeddingBackward, SumsTheRowsOfEachId) {
  test::for_each_target([] {
    for (const DType dtype : test::kFloatTypes) {
      for (const Shape& shape : kShapes) {
        SCOPED_TRACE(fmt::format("{} V {} C {} N {}", name_of(dtype), shape.rows, shape.cols, shape.count));
        Case c(dtype, shape);
        Buffer fast = run(embedding_backward_table().front(), c, serial_parallel_for());
        Buffer plain = run(embedding_backward_table().back(), c, serial_parallel_for());
        EXPECT_TRUE(fast.same_bytes(plain));
        std::vector<double> sums(static_cast<size_t>(plain.size())), sizes = sums;
        for (int64_t i = 0; i < shape.count; ++i) {
          for (int64_t col = 0; col < shape.cols; ++col) {
            const double g = c.gradient.get(i * c.stride() + col);
            const auto to = static_cast<size_t>(c.ids[static_cast<size_t>(i)] * c.stride() + col);
            sums[to] += g;
            sizes[to] += std::abs(g);
          }
        }
        const DType sum_type = test::statistic_type(dtype);
        for (int64_t i = 0; i < plain.size(); ++i) {
          const auto at = static_cast<size_t>(i);
          if (i % c.stride() >= shape.cols) {
            EXPECT_EQ(plain.get(i), 5) << "wrote between rows";
            continue;
          }
          // One rounding of the result, and one of each of at most N partial sums.
          const double bound = test::rounding(dtype) * std::abs(sums[at]) +
                               test::rounding(sum_type) * static_cast<double>(shape.count) * sizes[at];
          EXPECT_NEAR(plain.get(i), sums[at], bound);
        }
      }
    }
  });
}

TEST(EmbeddingBackward, SameBitsForAnyThreads) {
  for (const auto& impl : embedding_backward_table()) {
    for (const Shape& shape : kShapes) {
      Case c(DType::kF32, shape);
      test::expect_equal_for_any_threads(
          [&](const ParallelFor& parallel_for) { return std::vector<Buffer>{run(impl, c, parallel_for)}; });
    }
  }
}

TEST(Embedding, NamesTheFirstBadId) {
  std::vector<float> table(6 * 4, 1.0f), out(3 * 4, 7.0f);
  for (const int64_t bad : {int64_t{6}, int64_t{-1}, int64_t{1} << 40}) {
    const std::vector<int64_t> ids{5, bad, bad};
    const EmbeddingForward forward{.rows = 6,
                                   .cols = 4,
                                   .count = 3,
                                   .weight = table.data(),
                                   .weight_stride = 4,
                                   .ids = ids.data(),
                                   .out = out.data(),
                                   .out_stride = 4};
    const Status status = embedding_forward(forward, serial_parallel_for());
    EXPECT_EQ(status.code, StatusCode::kInvalid);
    EXPECT_EQ(status.text, fmt::format("id out of range at place 1; expected in [0, 6), got {}", bad));
    const EmbeddingBackward backward{.rows = 6,
                                     .cols = 4,
                                     .count = 3,
                                     .ids = ids.data(),
                                     .dout = out.data(),
                                     .dout_stride = 4,
                                     .dweight = table.data(),
                                     .dweight_stride = 4};
    EXPECT_EQ(embedding_backward(backward, serial_parallel_for()).code, StatusCode::kInvalid);
  }
  EXPECT_THAT(out, ::testing::Each(7.0f));
  EXPECT_THAT(table, ::testing::Each(1.0f));
}

TEST(Embedding, EmptySizesAreNoWork) {
  EXPECT_TRUE(embedding_forward({}, serial_parallel_for()).ok());
  EXPECT_TRUE(embedding_backward({}, serial_parallel_for()).ok());
  EXPECT_EQ(embedding_backward({.dtype = DType::kI64}, serial_parallel_for()).code, StatusCode::kUnsupported);
  EXPECT_EQ(embedding_backward({.rows = -1}, serial_parallel_for()).code, StatusCode::kInvalid);
}

}  // namespace
}  // namespace axial::kernels
