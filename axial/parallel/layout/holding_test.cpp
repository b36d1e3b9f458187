// SPDX-License-Identifier: Apache-2.0
// What ranks hold tiles the logical tensor, whatever the intervals; every way of asking gives one answer.
#include "axial/parallel/layout/holding.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"

namespace axial::parallel {
namespace {

int64_t below(uint64_t key, uint64_t i, int64_t bound) {
  return static_cast<int64_t>(random_below(root_key(key), i, static_cast<uint64_t>(bound)));
}

// A dim dealt out: pieces of random length, each to a random rank. Ranks may get none, or many.
std::vector<Intervals> dealt(int64_t size, int64_t ranks, uint64_t key) {
  std::vector<Intervals> held(static_cast<size_t>(ranks));
  uint64_t draw = 0;
  for (int64_t begin = 0; begin < size;) {
    const int64_t end = std::min(size, begin + 1 + below(key, draw++, 3));
    held[static_cast<size_t>(below(key, draw++, ranks))].push_back({begin, end});
    begin = end;
  }
  return held;
}

at::Tensor numbered(const std::vector<int64_t>& shape) {
  return at::arange(c10::multiply_integers(shape), at::kLong).view(shape);
}

// select, global_index and run_at agree, and write_into is the inverse of select.
void expect_consistent(const Holding& holding, const std::vector<int64_t>& shape) {
  const at::Tensor whole = numbered(shape);
  const at::Tensor part = holding.select(whole);
  ASSERT_EQ(part.sizes(), at::IntArrayRef(holding.held_shape()));
  const at::Tensor flat = part.contiguous().view({-1});
  ASSERT_EQ(flat.numel(), holding.flat_end - holding.flat_begin);
  for (int64_t i = 0; i < flat.numel();) {
    const Holding::Run run = holding.run_at(shape, i);
    ASSERT_GE(run.length, 1);
    ASSERT_LE(i + run.length, flat.numel());
    for (int64_t k = 0; k < run.length; ++k) {
      ASSERT_EQ(flat[i + k].item<int64_t>(), run.global + k);
      ASSERT_EQ(holding.global_index(shape, i + k), run.global + k);
    }
    i += run.length;
  }
  at::Tensor written = at::full(shape, -1, at::kLong);
  holding.write_into(written, part);
  const at::Tensor touched = written.ge(0);
  EXPECT_EQ(touched.sum().item<int64_t>(), flat.numel());
  EXPECT_TRUE(at::equal(written.masked_select(touched), whole.masked_select(touched)));
  EXPECT_TRUE(at::equal(holding.select(written), part));
}

TEST(Holding, PartsOfAllRanksTileTheLogicalTensor) {
  const std::vector<std::vector<int64_t>> shapes = {{1}, {17}, {5, 1}, {9, 4}, {4, 11}, {3, 7, 2}, {2, 5, 6}};
  for (const auto& shape : shapes) {
    for (uint64_t key = 0; key < 12; ++key) {
      const int64_t ranks = 1 + below(key, 100, 4);
      const int64_t dim = below(key, 101, static_cast<int64_t>(shape.size()));
      at::Tensor whole = at::full(shape, -1, at::kLong);
      int64_t held = 0;
      for (const Intervals& intervals : dealt(shape[static_cast<size_t>(dim)], ranks, key)) {
        const Holding holding = Holding::cut(shape, dim, intervals);
        holding.validate("w", shape);
        EXPECT_EQ(holding.is_whole(shape), holding.held_shape() == shape);
        expect_consistent(holding, shape);
        // ZeRO over three ranks, of the slices of each.
        const int64_t count = holding.flat_end;
        for (int64_t z = 0; z < 3; ++z) {
          Holding flat = holding;
          flat.flat_begin = count * z / 3;
          flat.flat_end = count * (z + 1) / 3;
          flat.validate("w", shape);
          expect_consistent(flat, shape);
          flat.write_into(whole, flat.select(numbered(shape)));
          held += flat.flat_end - flat.flat_begin;
        }
      }
      EXPECT_EQ(held, whole.numel());
      EXPECT_TRUE(at::equal(whole, numbered(shape)));
    }
  }
}

TEST(Holding, CutsOfTwoDimsCombine) {
  const std::vector<int64_t> shape{8, 9};
  Holding holding = Holding::cut(shape, 0, {{1, 2}, {4, 7}});
  holding.slices[1] = {{0, 4}, {8, 9}};
  holding.flat_end = 20;
  expect_consistent(holding, shape);
  holding.flat_begin = 3;
  holding.flat_end = 17;
  expect_consistent(holding, shape);
}

TEST(Holding, AFusedProjectionHasThreePiecesOfTwoLengths) {
  // 6 query and 2 key and value heads of width 4, the second of two ranks: rows of a weight [40, 3].
  const Holding holding = Holding::cut({40, 3}, 0, {{12, 24}, {28, 32}, {36, 40}});
  EXPECT_EQ(holding.held_shape(), (std::vector<int64_t>{20, 3}));
  EXPECT_EQ(holding.global_index({40, 3}, 0), 36);
  EXPECT_EQ(holding.run_at({40, 3}, 4).length, 32);  // to the end of the query rows
  EXPECT_EQ(holding.global_index({40, 3}, 36), 84);
  EXPECT_EQ(holding.global_index({40, 3}, 59), 119);
}

TEST(Holding, IntervalsThatTouchAreOne) {
  const Holding whole = Holding::cut({6, 2}, 0, {{0, 3}, {3, 3}, {3, 6}});
  EXPECT_EQ(whole.slices[0], (Intervals{{0, 6}}));
  EXPECT_TRUE(whole.is_whole({6, 2}));
  EXPECT_EQ(intersection({{0, 4}, {6, 9}}, {3, 8}), (Intervals{{3, 4}, {6, 8}}));
  EXPECT_EQ(intersection({{0, 4}}, {4, 8}), Intervals{});
  const Holding nothing = Holding::cut({6, 2}, 1, {});
  EXPECT_EQ(nothing.held_shape(), (std::vector<int64_t>{6, 0}));
  EXPECT_EQ(nothing.select(at::zeros({6, 2})).numel(), 0);
  nothing.validate("w", {6, 2});
}

TEST(Holding, SelectDoesNotCopyOneInterval) {
  const at::Tensor whole = at::zeros({8, 4});
  EXPECT_TRUE(Holding::cut({8, 4}, 0, {{2, 5}}).select(whole).is_alias_of(whole));
  EXPECT_TRUE(Holding::whole({8, 4}).select(whole).is_same(whole));
}

TEST(Holding, NamesWhatIsWrong) {
  const auto message = [](const Holding& holding, const std::vector<int64_t>& shape) -> std::string {
    try {
      holding.validate("w", shape);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(
      message(Holding::cut({8, 4}, 0, {{2, 5}, {4, 6}}), {8, 4}),
      HasSubstr("parameter 'w' dim 0; expected ascending intervals inside [0, 8), got [4, 6) after 5"));
  EXPECT_THAT(message(Holding::cut({8, 4}, 1, {{2, 5}}), {8, 4}), HasSubstr("dim 1"));
  EXPECT_THAT(message(Holding::whole({8}), {8, 4}), HasSubstr("expected 2 dim slices, got 1"));
  Holding flat = Holding::whole({8, 4});
  flat.flat_end = 33;
  EXPECT_THAT(message(flat, {8, 4}), HasSubstr("flat interval inside [0, 32), got [0, 33)"));
  EXPECT_THROW(Holding::cut({8, 4}, 2, {}), ValueError);
  at::Tensor logical = at::zeros({8, 4});
  EXPECT_THROW(Holding::whole({8, 4}).write_into(logical, at::zeros({8, 3})), ValueError);
}

}  // namespace
}  // namespace axial::parallel
