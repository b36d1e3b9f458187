// SPDX-License-Identifier: Apache-2.0
// Cases by hand from the allocator's rules, and random ones against what must always hold.
#include "axial/train/plan/caching_allocator.h"

#include <gtest/gtest.h>

#include <random>

#include "axial/core/check/check.h"
#include "axial/train/plan/plan.h"

namespace axial::train {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(CachingAllocator, RoundsAndReservesAsTorchDoes) {
  CachingAllocator a({});
  EXPECT_TRUE(a.allocate(0, 1));
  EXPECT_EQ(a.allocated(), 512);
  EXPECT_EQ(a.reserved(), 2 * kMiB);
  EXPECT_TRUE(a.allocate(1, kMiB));  // of the same small segment
  EXPECT_EQ(a.reserved(), 2 * kMiB);
  EXPECT_TRUE(a.allocate(2, kMiB));  // 2 MiB - 512 - 1 MiB are too few
  EXPECT_EQ(a.reserved(), 4 * kMiB);
  EXPECT_TRUE(a.allocate(3, kMiB + 1));  // a large segment
  EXPECT_EQ(a.reserved(), 24 * kMiB);
  EXPECT_TRUE(a.allocate(4, 9 * kMiB));  // of its rest
  EXPECT_EQ(a.reserved(), 24 * kMiB);
  EXPECT_TRUE(a.allocate(5, 10 * kMiB + 1));  // one of its own, rounded up to 2 MiB
  EXPECT_EQ(a.reserved(), 36 * kMiB);
  EXPECT_EQ(a.peak_reserved(), 36 * kMiB);
  for (int64_t id = 0; id < 6; ++id) a.free(id);
  EXPECT_EQ(a.allocated(), 0);
  EXPECT_EQ(a.reserved(), 36 * kMiB);  // cached
  EXPECT_THROW(a.free(3), ValueError);
}

TEST(CachingAllocator, CutsAndMergesBlocks) {
  CachingAllocator a({});
  a.allocate(0, 8 * kMiB);
  a.allocate(1, 8 * kMiB);  // the rest of 4 MiB is free
  a.free(0);
  a.allocate(2, 4 * kMiB);  // the smallest that fits: the rest
  EXPECT_EQ(a.reserved(), 20 * kMiB);
  a.allocate(3, 8 * kMiB);
  EXPECT_EQ(a.reserved(), 20 * kMiB);
  a.free(1);
  a.free(2);  // neighbours: 12 MiB
  a.allocate(4, 12 * kMiB);
  EXPECT_EQ(a.reserved(), 20 * kMiB);
  a.free(4);
  a.allocate(5, 12 * kMiB - kMiB);  // what is left is too small to be cut off
  EXPECT_EQ(a.allocated(), 20 * kMiB);
}

TEST(CachingAllocator, GivesSegmentsBackWhenTheDeviceIsFull) {
  CachingAllocator a({.capacity = 64 * kMiB});
  a.allocate(0, 30 * kMiB);
  a.allocate(1, 30 * kMiB);
  a.free(0);
  EXPECT_TRUE(a.allocate(2, 34 * kMiB));  // the free segment of 30 goes
  EXPECT_EQ(a.reserved(), 64 * kMiB);
  EXPECT_FALSE(a.allocate(3, 1));
  a.free(1);
  EXPECT_TRUE(a.allocate(4, 1));  // 2 MiB in place of 30
  EXPECT_EQ(a.reserved(), 36 * kMiB);
}

// Half of a segment in use keeps all of it; pages go one by one.
TEST(CachingAllocator, ExpandableSegmentsGiveBackPages) {
  for (const bool expandable : {false, true}) {
    CachingAllocator a({.capacity = 120 * kMiB, .expandable_segments = expandable});
    EXPECT_TRUE(a.allocate(0, 100 * kMiB));
    a.free(0);
    EXPECT_TRUE(a.allocate(1, 20 * kMiB));  // of the block of 100
    EXPECT_EQ(a.allocate(2, 90 * kMiB), expandable);
    EXPECT_EQ(a.reserved(), expandable ? 120 * kMiB : 100 * kMiB);
  }
}

TEST(CachingAllocator, ExpandableSegmentsGrowWhereTheyEnd) {
  CachingAllocator a({.expandable_segments = true});
  a.allocate(0, 30 * kMiB);
  EXPECT_EQ(a.reserved(), 40 * kMiB);
  a.allocate(1, 30 * kMiB);  // 10 of the last page and one more
  EXPECT_EQ(a.reserved(), 60 * kMiB);
  a.free(0);
  a.free(1);
  a.allocate(2, 60 * kMiB);
  EXPECT_EQ(a.reserved(), 60 * kMiB);
}

// Reserved is never below allocated nor above the device; everything freed, one allocation of all fits.
TEST(CachingAllocator, RandomRunsHoldTogether) {
  for (const bool expandable : {false, true}) {
    for (unsigned seed = 0; seed < 30; ++seed) {
      std::mt19937_64 draw(seed);
      const int64_t capacity = 512 * kMiB;
      CachingAllocator a({.capacity = capacity, .expandable_segments = expandable});
      std::vector<int64_t> live;
      for (int64_t id = 0; id < 2000; ++id) {
        const int64_t bytes = int64_t{1} << (draw() % 26);
        if (a.allocate(id, bytes + static_cast<int64_t>(draw() % 1000))) live.push_back(id);
        ASSERT_LE(a.allocated(), a.reserved());
        ASSERT_LE(a.reserved(), capacity);
        while (!live.empty() && draw() % 3 == 0) {
          std::swap(live[draw() % live.size()], live.back());
          a.free(live.back());
          live.pop_back();
        }
      }
      for (const int64_t id : live) a.free(id);
      EXPECT_EQ(a.allocated(), 0);
      EXPECT_TRUE(a.allocate(-1, capacity - 20 * kMiB)) << "seed " << seed;
      EXPECT_LE(a.reserved(), capacity);
    }
  }
}

TEST(LargestThatFits, IsFoundInFewQuestions) {
  for (const int64_t most : {1, 2, 3, 7, 8, 100}) {
    for (int64_t limit = 0; limit <= most + 1; ++limit) {
      int64_t asked = 0;
      const auto fits = [&](int64_t value) {
        EXPECT_EQ(value % 3, 0);
        EXPECT_LE(value, 3 * most);
        asked += 1;
        return value <= 3 * limit;
      };
      EXPECT_EQ(largest_that_fits(3, 3 * most, fits), 3 * std::min(limit, most));
      EXPECT_LE(asked, 16);
    }
  }
  EXPECT_THROW(largest_that_fits(0, 5, [](int64_t) { return true; }), ValueError);
}

TEST(CachingAllocator, ReplaysEvents) {
  using ops::MemoryUse;
  const std::vector<ops::MemoryEvent> events{{0, 30 * kMiB, MemoryUse::kOther},
                                             {0, 0, MemoryUse::kGradients},
                                             {1, 30 * kMiB, MemoryUse::kOther},
                                             {0, -30 * kMiB, MemoryUse::kGradients},
                                             {2, 34 * kMiB, MemoryUse::kOther}};
  const Reserved free = replay(events, {}), tight = replay(events, {.capacity = 64 * kMiB}),
                 full = replay(events, {.capacity = 62 * kMiB});
  EXPECT_TRUE(free.fits && tight.fits);
  EXPECT_EQ(free.peak_reserved, 94 * kMiB);
  EXPECT_EQ(tight.peak_reserved, 64 * kMiB);
  EXPECT_EQ(free.peak_allocated, 64 * kMiB);
  EXPECT_FALSE(full.fits);
}

}  // namespace
}  // namespace axial::train
