// SPDX-License-Identifier: Apache-2.0
#include "axial/testing/counted_memory/counted_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace axial::testing {
namespace {

TEST(CountedMemory, FollowsWhatLivesAndItsPeak) {
  CountedMemory memory;
  {
    const at::Tensor a = at::empty({1000}, at::TensorOptions(at::kMeta).dtype(at::kDouble));
    EXPECT_EQ(memory.live(), 8000);
    { const at::Tensor b = a + 1; }
    EXPECT_EQ(memory.live(), 8000);
    EXPECT_EQ(memory.peak(), 16000);
    memory.reset_peak();
    EXPECT_EQ(memory.peak(), 8000);
    const at::Tensor view = a.narrow(0, 0, 10);
    EXPECT_EQ(memory.peak(), 8000);
  }
  EXPECT_EQ(memory.live(), 0);
}

TEST(CountedMemory, PutsBackTheAllocatorBefore) {
  const c10::Allocator* before = c10::GetAllocator(c10::kMeta);
  { CountedMemory memory; }
  EXPECT_EQ(c10::GetAllocator(c10::kMeta), before);
}

}  // namespace
}  // namespace axial::testing
