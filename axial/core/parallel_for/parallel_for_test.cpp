// SPDX-License-Identifier: Apache-2.0
#include "axial/core/parallel_for/parallel_for.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace axial {
namespace {

TEST(ParallelFor, CoversEveryPieceOnce) {
  for (const int threads : {1, 2, 3, 16}) {
    for (const int64_t n : {0, 1, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      thread_parallel_for(threads)(n, 3, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      for (const auto& s : seen) EXPECT_EQ(s.load(), 1);
    }
  }
}

TEST(ParallelFor, RethrowsFromAThread) {
  EXPECT_THROW(thread_parallel_for(4)(8, 1, [](int64_t, int64_t) { throw std::runtime_error("x"); }),
               std::runtime_error);
}

}  // namespace
}  // namespace axial
