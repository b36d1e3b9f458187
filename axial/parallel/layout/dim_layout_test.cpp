// SPDX-License-Identifier: Apache-2.0
// Properties of every split: disjoint, complete, consistent in both directions, cut and joined without loss.
#include "axial/parallel/layout/dim_layout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "axial/core/check/check.h"

namespace axial::parallel {
namespace {

std::vector<DimLayout> all_layouts() {
  std::vector<DimLayout> layouts;
  for (const int64_t size : {0, 1, 2, 3, 7, 8, 16, 33}) {
    for (const int64_t ranks : {1, 2, 3, 4, 8}) {
      layouts.push_back(DimLayout::contiguous(size, ranks));
      layouts.push_back(DimLayout::zigzag(size, ranks));
      layouts.push_back(DimLayout::zigzag(size, ranks).with_logical_size(size - size / 3));
      layouts.push_back(DimLayout::contiguous(size, ranks).with_halo(1, 2));
      layouts.push_back(DimLayout::zigzag(size, ranks).with_halo(3, 0).with_logical_size(size / 2));
    }
  }
  layouts.push_back(DimLayout::blocks({3, 0, 5, 1}));
  layouts.push_back(DimLayout::custom(6, {{{1, 2}, {4, 6}}, {{0, 1}, {2, 4}}}));
  return layouts;
}

TEST(DimLayout, EveryIndexHasOneOwnerAndOnePlace) {
  for (const DimLayout& layout : all_layouts()) {
    std::multiset<int64_t> seen;
    for (int64_t r = 0; r < layout.num_ranks(); ++r) {
      for (const Interval& i : layout.owned(r)) {
        for (int64_t g = i.begin; g < i.end; ++g) {
          seen.insert(g);
          EXPECT_EQ(layout.owner(g), r);
          EXPECT_EQ(layout.global_index(r, layout.local_index(g)), g);
        }
      }
    }
    ASSERT_EQ(static_cast<int64_t>(seen.size()), layout.size());
    for (int64_t g = 0; g < layout.size(); ++g) EXPECT_EQ(seen.count(g), 1u);
  }
}

TEST(DimLayout, CutsFollowTheIndices) {
  for (const DimLayout& layout : all_layouts()) {
    const int64_t n = layout.logical_size();
    const at::Tensor whole = at::arange(2 * n, at::kDouble).reshape({2, n});
    for (const int64_t dim : {int64_t{1}, int64_t{-1}}) {
      std::vector<at::Tensor> pieces;
      for (int64_t r = 0; r < layout.num_ranks(); ++r) {
        pieces.push_back(layout.select(whole, dim, r, -1.0));
        ASSERT_EQ(pieces.back().size(1), layout.local_size(r));
        for (int64_t l = 0; l < layout.local_size(r); ++l) {
          const int64_t g = layout.global_index(r, l);
          EXPECT_EQ(pieces.back()[1][l].item<double>(), g < n ? static_cast<double>(n + g) : -1.0);
        }
      }
      EXPECT_TRUE(at::equal(layout.assemble(pieces, dim), whole));
    }
  }
}

TEST(DimLayout, ZigzagGivesEveryRankTheSameCausalWork) {
  const DimLayout layout = DimLayout::zigzag(32, 4);
  EXPECT_EQ(layout.owned(1), (std::vector<Interval>{{4, 8}, {24, 28}}));
  EXPECT_EQ(layout.owned(3), (std::vector<Interval>{{12, 20}}));
  for (int64_t r = 0; r < 4; ++r) {
    int64_t work = 0;
    for (int64_t l = 0; l < layout.local_size(r); ++l) work += layout.global_index(r, l) + 1;
    EXPECT_EQ(work, 32 * 33 / 2 / 4);
  }
}

TEST(DimLayout, HaloHoldsNeighboursButOwnsNone) {
  const DimLayout layout = DimLayout::contiguous(9, 3).with_halo(2, 1);
  EXPECT_EQ(layout.held(0), (std::vector<Interval>{{0, 4}}));
  EXPECT_EQ(layout.held(1), (std::vector<Interval>{{1, 7}}));
  EXPECT_EQ(layout.local_index(3), 2);
  EXPECT_EQ(layout.owner(2), 0);
}

TEST(DimLayout, RefusesSplitsThatLoseOrRepeat) {
  EXPECT_THROW(DimLayout::custom(4, {{{0, 2}}, {{3, 4}}}), ValueError);
  EXPECT_THROW(DimLayout::custom(4, {{{0, 3}}, {{2, 4}}}), ValueError);
  EXPECT_THROW(DimLayout::custom(4, {{{0, 3}}}), ValueError);
  EXPECT_THROW(DimLayout::custom(4, {{{0, 5}}}), ValueError);
  EXPECT_THROW(DimLayout::contiguous(4, 0), ValueError);
  EXPECT_THROW(DimLayout::whole(4).owner(4), ValueError);
  EXPECT_THROW(DimLayout::whole(4).select(at::zeros({5}), 0, 0), ValueError);
  EXPECT_THROW(DimLayout::contiguous(4, 2).assemble({at::zeros({2})}, 0), ValueError);
}

}  // namespace
}  // namespace axial::parallel
