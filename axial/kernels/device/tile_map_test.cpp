// SPDX-License-Identifier: Apache-2.0
// The maps of tile_map.h: one to one, without bank conflicts, and fragments that cover their matrices.
#include "axial/kernels/device/tile_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

namespace axial::kernels::device {
namespace {

constexpr int kLanes = 32, kBanks = 32;

// The most 4-byte words of one bank that 16-byte accesses at `elements` of 16 bits touch; 1 for no conflict
// of eight of them, which is how many the hardware serves at once.
int conflicts(const std::vector<int>& elements) {
  std::array<std::set<int>, kBanks> words;
  for (const int at : elements) {
    for (int word = at / 2; word < at / 2 + 4; ++word) words[static_cast<size_t>(word % kBanks)].insert(word);
  }
  size_t most = 0;
  for (const auto& bank : words) most = std::max(most, bank.size());
  return static_cast<int>(most);
}

template <int kWidth>
void check_tile() {
  using Map = TileMap<kWidth>;
  constexpr int kRows = 64;
  std::set<int> places;
  for (int row = 0; row < kRows; ++row) {
    for (int col = 0; col < kWidth; ++col) {
      const int at = Map::at(row, col);
      EXPECT_GE(at, 0);
      EXPECT_LT(at, kRows * kWidth);
      places.insert(at);
      EXPECT_EQ(at % Map::kChunk, col % Map::kChunk) << "chunks stay whole";
    }
  }
  EXPECT_EQ(places.size(), static_cast<size_t>(kRows * kWidth));
  for (int row = 0; row < kRows; row += 8) {  // the eight rows of a matrix of ldmatrix
    for (int col = 0; col < kWidth; col += Map::kChunk) {
      std::vector<int> at;
      for (int r = 0; r < 8; ++r) at.push_back(Map::at(row + r, col));
      EXPECT_EQ(conflicts(at), 1) << "width " << kWidth << " rows from " << row << " column " << col;
    }
  }
  for (int first = 0; first < kRows * Map::kChunks;
       first += 8) {  // eight chunks that neighbouring threads store
    std::vector<int> at;
    for (int i = first; i < first + 8; ++i)
      at.push_back(Map::at(i / Map::kChunks, i % Map::kChunks * Map::kChunk));
    EXPECT_EQ(conflicts(at), 1) << "width " << kWidth << " chunk " << first;
  }
}

TEST(TileMap, IsOneToOneWithoutBankConflicts) {
  check_tile<16>();
  check_tile<32>();
  check_tile<64>();
  check_tile<128>();
}

TEST(TileMap, RowsAsTheyLieWouldConflict) {  // so that the count above can fail
  std::vector<int> at;
  for (int r = 0; r < 8; ++r) at.push_back(r * 64);
  EXPECT_EQ(conflicts(at), 8);
}

TEST(TileMap, FragmentsCoverTheirMatricesOnce) {
  std::set<std::pair<int, int>> accumulators, left, right;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int e = 0; e < 4; ++e) accumulators.insert({Accumulator::row(lane, e), Accumulator::col(lane, e)});
    for (int h = 0; h < 2; ++h) {
      for (int w = 0; w < 4; ++w) left.insert({LeftFragment::row(lane, w), LeftFragment::k(lane, w, h)});
      for (int w = 0; w < 2; ++w) right.insert({RightFragment::k(lane, w, h), RightFragment::col(lane)});
    }
  }
  EXPECT_EQ(accumulators.size(), 16u * 8);
  EXPECT_EQ(left.size(), 16u * 16);
  EXPECT_EQ(right.size(), 16u * 8);
}

// Two tiles of 8 columns of accumulators are a left fragment as they lie: words of pairs (0, 1) and (2, 3).
TEST(TileMap, AccumulatorsAreLeftFragments) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int w = 0; w < 4; ++w) {
      for (int h = 0; h < 2; ++h) {
        const int e = w % 2 * 2 + h;
        EXPECT_EQ(LeftFragment::row(lane, w), Accumulator::row(lane, e));
        EXPECT_EQ(LeftFragment::k(lane, w, h), w / 2 * 8 + Accumulator::col(lane, e));
      }
    }
  }
}

// ldmatrix gives word m of lane i elements 2 (i % 4), + 1 of row i / 4 of matrix m, whose rows lanes 8 m to
// 8 m + 7 address; turned, rows 2 (i % 4), + 1 of column i / 4.
TEST(TileMap, MatrixRowsMakeFragments) {
  const auto element = [](auto rows, bool turned, int lane, int m, int h) {
    const int along = lane % 4 * 2 + h, across = lane / 4;
    const MatrixRows at = rows(m * 8 + (turned ? along : across), 0, 0);
    return std::pair(at.row, at.col + (turned ? across : along));
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int m = 0; m < 4; ++m) {
      for (int h = 0; h < 2; ++h) {
        EXPECT_EQ(element(left_rows, false, lane, m, h),
                  std::pair(LeftFragment::row(lane, m), LeftFragment::k(lane, m, h)));
        // Words 0 and 1 are the right fragment of columns 0 to 7, words 2 and 3 of 8 to 15.
        const int k = RightFragment::k(lane, m % 2, h), col = m / 2 * 8 + RightFragment::col(lane);
        EXPECT_EQ(element(right_rows, false, lane, m, h), std::pair(col, k));
        EXPECT_EQ(element(turned_rows, true, lane, m, h), std::pair(k, col));
      }
    }
  }
}

}  // namespace
}  // namespace axial::kernels::device
