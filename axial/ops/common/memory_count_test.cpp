// SPDX-License-Identifier: Apache-2.0
// Counts follow what lives, on the host as on Meta, from the first byte to the last and across threads.
#include "axial/ops/common/memory_count.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace axial::ops {
namespace {

class MemoryCountTest : public ::testing::TestWithParam<c10::DeviceType> {
 protected:
  at::TensorOptions fp64() const { return at::TensorOptions(at::Device(GetParam())).dtype(at::kDouble); }
};

INSTANTIATE_TEST_SUITE_P(Devices, MemoryCountTest, ::testing::Values(c10::kCPU, c10::kMeta),
                         [](const auto& info) { return c10::DeviceTypeName(info.param); });

TEST_P(MemoryCountTest, FollowsWhatLivesAndItsPeak) {
  MemoryCount memory;
  {
    const at::Tensor a = at::zeros({1000}, fp64());
    EXPECT_EQ(memory.live(), 8000);
    { const at::Tensor b = a.clone(); }
    EXPECT_EQ(memory.live(), 8000);
    EXPECT_EQ(memory.peak(), 16000);
    EXPECT_EQ(memory.peak_allocation(), 1);
    memory.reset_peak();
    EXPECT_EQ(memory.peak(), 8000);
    const at::Tensor view = a.narrow(0, 0, 10);
    EXPECT_EQ(memory.peak(), 8000);
  }
  EXPECT_EQ(memory.live(), 0);
}

TEST_P(MemoryCountTest, ByUse) {
  MemoryCount memory;
  const auto bytes = [&](MemoryUse use) { return memory.at_peak()[static_cast<size_t>(use)]; };
  std::vector<at::Tensor> held;
  {
    const MemoryScope outer(MemoryUse::kActivations);
    held.push_back(at::empty({10}, fp64()));
    {
      const MemoryScope inner(MemoryUse::kLogits);
      held.push_back(at::empty({20}, fp64()));
    }
    held.push_back(at::empty({30}, fp64()));
  }
  held.push_back(at::empty({40}, fp64()));
  EXPECT_EQ(bytes(MemoryUse::kActivations), 320);
  EXPECT_EQ(bytes(MemoryUse::kLogits), 160);
  EXPECT_EQ(bytes(MemoryUse::kOther), 320);
  EXPECT_EQ(memory.peak(MemoryUse::kLogits), 160);
  held.clear();  // outside of the scopes: what it was for is remembered
  EXPECT_EQ(memory.live(MemoryUse::kLogits), 0);
  EXPECT_EQ(bytes(MemoryUse::kLogits), 160);
}

TEST_P(MemoryCountTest, RestsInAPause) {
  MemoryCount memory;
  at::Tensor uncounted;
  {
    const MemoryPause pause;
    uncounted = at::empty({10}, fp64());
  }
  const at::Tensor counted = at::empty({1}, fp64());
  EXPECT_EQ(memory.live(), 8);
  uncounted = at::Tensor();
  EXPECT_EQ(memory.live(), 8);
}

TEST_P(MemoryCountTest, UsesMayChange) {
  at::Tensor uncounted = at::empty({10}, fp64());
  set_memory_use(uncounted, MemoryUse::kGradients);
  set_memory_use({}, MemoryUse::kGradients);
  MemoryCount memory;
  at::Tensor x = at::empty({10}, fp64());
  set_memory_use(x.narrow(0, 2, 3), MemoryUse::kGradients);
  EXPECT_EQ(memory.live(MemoryUse::kOther), 0);
  EXPECT_EQ(memory.live(MemoryUse::kGradients), 80);
  x = at::Tensor();
  EXPECT_EQ(memory.live(MemoryUse::kGradients), 0);
}

TEST_P(MemoryCountTest, EveryThreadCountsItsOwn) {
  MemoryCount here;
  at::Tensor kept;
  int64_t there = 0;
  std::thread([&] {
    const at::Tensor uncounted = at::empty({7}, fp64());
    MemoryCount memory;
    kept = at::empty({5}, fp64());
    there = memory.live();
  }).join();
  EXPECT_EQ(there, 40);
  EXPECT_EQ(here.live(), 0);
  kept = at::Tensor();  // its count is over
  const at::Tensor mine = at::empty({3}, fp64());
  EXPECT_EQ(here.live(), 24);
}

TEST_P(MemoryCountTest, FreedInAnotherThread) {
  MemoryCount memory;
  at::Tensor x = at::empty({5}, fp64());
  std::thread([y = std::move(x)]() mutable { y = at::Tensor(); }).join();
  EXPECT_EQ(memory.live(), 0);
  EXPECT_EQ(memory.peak(), 40);
}

TEST_P(MemoryCountTest, TensorsMayOutliveIt) {
  at::Tensor x;
  {
    MemoryCount outer;
    {
      MemoryCount memory;
      x = at::ones({1000}, fp64());
    }
    EXPECT_EQ(outer.live(), 0);
    const at::Tensor again = at::empty({1}, fp64());
    EXPECT_EQ(outer.live(), 8);
  }
  if (GetParam() == c10::kCPU) {
    EXPECT_EQ(x.sum().item<double>(), 1000);
  }
  const at::Tensor uncounted = x + 1;
  x.resize_({2000});
}

// Some of torch's functions of the host ask for bare memory.
TEST(MemoryCount, BareMemoryOfTheHost) {
  c10::Allocator* allocator = c10::GetAllocator(c10::kCPU);
  void* before = allocator->raw_allocate(100);
  MemoryCount memory;
  allocator = c10::GetAllocator(c10::kCPU);
  void* counted = allocator->raw_allocate(64);
  EXPECT_EQ(memory.live(), 64);
  allocator->raw_deallocate(before);
  EXPECT_EQ(memory.live(), 64);
  allocator->raw_deallocate(counted);
  EXPECT_EQ(memory.live(), 0);
}

TEST_P(MemoryCountTest, ListenersHearEveryAllocation) {
  MemoryCount memory;
  int64_t live = 0, ends = 0;
  memory.listen([&](const MemoryEvent& event) {
    live += event.bytes;
    ends += event.bytes < 0 ? 1 : 0;
  });
  {
    const at::Tensor a = at::empty({10}, fp64()), b = at::empty({20}, fp64());
    EXPECT_EQ(live, 240);
  }
  EXPECT_EQ(live, 0);
  EXPECT_EQ(ends, 2);
  // Who allocated what.
  std::vector<MemoryEvent> events;
  memory.listen([&](const MemoryEvent& event) { events.push_back(event); });
  {
    const MemoryScope scope(MemoryUse::kActivations, "layers.3");
    const at::Tensor x = at::ones({4}, fp64());
  }
  const at::Tensor outside = at::empty({4}, fp64());
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(*events[0].block, "layers.3");
  EXPECT_EQ(*events[0].op, "aten::ones");
  EXPECT_EQ(events[2].block, nullptr);
  memory.listen({});
  const at::Tensor unheard = at::empty({1}, fp64());
  EXPECT_EQ(live, 0);
}

}  // namespace
}  // namespace axial::ops
