// SPDX-License-Identifier: Apache-2.0
// The merge against the formula of its contract, in strided rows, with rows that saw nothing and huge logits.
#include "axial/kernels/attention/merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace axial::kernels {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

// One leading element, three heads, one width; queries two apart in memory.
struct Rows {
  std::vector<double> out, statistics;
  PartialAttention bound() { return {out.data(), 0, 2, 4, statistics.data(), 0, 4}; }
};

TEST(MergeAttention, RescalesToTheLargerMaximum) {
  // Head 0: both rows saw something; head 1: one of the two; head 2: none, and logits far apart.
  Rows sum{{1, -9, 2, -9, 3, -9, 4, -9, 0, -9, 5, -9}, {0, 2, 1, 1, 3, 4, kNone, 0, kNone, 0, 900, 2}};
  Rows piece{{3, -9, 4, -9, 7, -9, 8, -9, 0, -9, 6, -9}, {0, 2, 2, 3, kNone, 0, 1, 5, kNone, 0, -900, 2}};
  const AttentionMerge params{1, 2, 3, 1, DType::kF64, sum.bound(), piece.bound()};
  ASSERT_TRUE(merge_attention(params, thread_parallel_for(2)).ok());
  const double kept = std::exp(-1.0), all = kept + 3;
  const std::vector<double> out{2, -9, (2 * kept + 4 * 3) / all, -9, 3, -9, 8, -9, 0, -9, 5, -9};
  const std::vector<double> statistics{0, 4, 2, all, 3, 4, 1, 5, kNone, 0, 900, 2};
  for (size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(sum.out[i], out[i], 1e-15) << i;
  for (size_t i = 0; i < statistics.size(); ++i) {
    if (std::isinf(statistics[i])) {
      EXPECT_EQ(sum.statistics[i], statistics[i]) << i;
    } else {
      EXPECT_NEAR(sum.statistics[i], statistics[i], 1e-15) << i;
    }
  }
}

TEST(MergeAttention, RefusesNarrowSums) {
  AttentionMerge params;
  params.dtype = DType::kBF16;
  EXPECT_FALSE(merge_attention(params, serial_parallel_for()).ok());
}

}  // namespace
}  // namespace axial::kernels
