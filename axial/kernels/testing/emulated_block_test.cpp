// SPDX-License-Identifier: Apache-2.0
// That an emulated block computes what a device does, and that it finds what would go wrong there.
#include "axial/kernels/testing/emulated_grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace axial::kernels::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int kThreads = 64;
using Block = EmulatedBlock<kThreads>;

// The message with which a kernel over one block of 64 threads and 256 bytes ends.
template <class Kernel>
std::string error_of(const Kernel& kernel, bool backwards = false) {
  try {
    run_grid<kThreads>(1, 256, kernel, backwards);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "none";
}

TEST(EmulatedBlock, RunsEveryThreadOfEveryBlock) {
  std::vector<int> runs(3 * kThreads);
  run_grid<kThreads>(3, 0, [&](Block& block) {
    block.sync();
    ++runs[static_cast<size_t>(block.index() * kThreads + block.warp() * 32 + block.lane())];
  });
  EXPECT_THAT(runs, ::testing::Each(1));
}

TEST(EmulatedBlock, BarriersOrderSharedMemory) {
  EXPECT_EQ(error_of([](Block& block) {
              const auto shared = block.array<int>(0, kThreads);
              for (int round = 0; round < 3; ++round) {
                block.store(shared, block.thread(), block.thread() + round);
                block.sync();
                const int other = kThreads - 1 - block.thread();
                EXPECT_EQ(block.load(shared, other), other + round);
                block.sync();
              }
            }),
            "none");
}

TEST(EmulatedBlock, FindsReadsWithoutABarrier) {
  for (const bool backwards : {false, true}) {  // whichever goes first
    EXPECT_THAT(error_of(
                    [](Block& block) {
                      const auto shared = block.array<int>(0, kThreads);
                      block.store(shared, block.thread(), 0);
                      block.sync();
                      block.store(shared, block.thread(), 1);
                      block.load(shared, kThreads - 1 - block.thread());
                    },
                    backwards),
                HasSubstr("without a barrier"));
  }
}

TEST(EmulatedBlock, FindsWritesOverWhatOthersRead) {
  EXPECT_THAT(error_of([](Block& block) {
                const auto shared = block.array<int>(0, kThreads);
                block.store(shared, block.thread(), 0);
                block.sync();
                block.load(shared, 0);
                if (block.thread() == 0) block.store(shared, 0, 1);
              }),
              HasSubstr("writes, without a barrier, what was read by"));
}

TEST(EmulatedBlock, FindsReadsOfWhatNobodyWrote) {
  EXPECT_THAT(error_of([](Block& block) { block.load(block.array<int>(0, 4), 0); }),
              HasSubstr("nobody wrote"));
}

TEST(EmulatedBlock, FindsWhatLiesOutside) {
  EXPECT_THAT(error_of([](Block& block) { block.store(block.array<int>(0, 4), 4 + block.thread(), 0); }),
              HasSubstr("elements 4 to 5 of an array of 4"));
  EXPECT_THAT(error_of([](Block& block) { block.store(block.array<int>(240, 8), 7, 0); }),
              HasSubstr("bytes 268 to 272 of 256"));
}

TEST(EmulatedBlock, FindsThreadsThatNeverMeet) {
  EXPECT_THAT(error_of([](Block& block) {
                if (block.thread() != 7) block.sync();
              }),
              HasSubstr("wait for ever"));
  EXPECT_THAT(error_of([](Block& block) {
                if (block.lane() != 3) block.shuffle_xor(1, 1);
              }),
              HasSubstr("in shuffle_xor"));
}

TEST(EmulatedBlock, FindsLanesThatDiverge) {
  EXPECT_THAT(error_of([](Block& block) {
                float c[4] = {};
                const uint32_t a[4] = {};
                if (block.lane() < 16) {
                  block.shuffle_xor(1, 1);
                } else {
                  block.multiply<BFloat16>(c, a, 0, 0);
                }
              }),
              HasSubstr("are in shuffle_xor of line"));
  const auto two_places = [](Block& block) {  // a macro would put both on one line
    if (block.lane() < 16) {
      block.shuffle_xor(1, 1);
    } else {
      block.shuffle_xor(1, 1);
    }
  };
  EXPECT_THAT(error_of(two_places), HasSubstr("are in shuffle_xor of line"));
}

TEST(EmulatedBlock, CopiesComeWhenTheyAreWaitedFor) {
  alignas(16) static constexpr uint16_t kFrom[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto kernel = [](bool waits) {
    return [waits](Block& block) {
      const auto shared = block.array<uint16_t>(0, 32);
      if (block.thread() == 0) {
        block.copy_chunk(shared, 0, kFrom, true);
        block.commit();
        block.copy_chunk(shared, 8, kFrom, false);
        block.commit();
        if (waits) block.wait<1>();
        EXPECT_EQ(block.load(shared, 7), 8);
        block.wait<0>();
        EXPECT_EQ(block.load(shared, 15), 0) << "zeros where nothing is wanted";
      }
    };
  };
  EXPECT_EQ(error_of(kernel(true)), "none");
  EXPECT_THAT(error_of(kernel(false)), HasSubstr("still on its way"));
}

TEST(EmulatedBlock, ShufflesWithinAWarp) {
  run_grid<kThreads>(1, 0, [](Block& block) {
    EXPECT_EQ(block.shuffle_xor(block.thread(), 5), block.thread() ^ 5);
    EXPECT_EQ(block.shuffle_xor(uint64_t{1} << 40, 1), uint64_t{1} << 40);
  });
}

// c = a b with both read from shared memory, the right one as rows that are columns, or turned.
template <class T, bool kTurned>
void check_product() {
  const auto value = [](int matrix, int i, int j) {
    return static_cast<float>((3 * matrix + 5 * i + 7 * j) % 11 - 5);
  };
  run_grid<32>(1, 2048, [&](EmulatedBlock<32>& block) {
    const auto left = block.array<uint16_t>(0, 256), right = block.array<uint16_t>(1024, 256);
    for (int i = block.lane(); i < 256; i += 32) {
      block.store(left, i, device::narrow<T>(value(0, i / 16, i % 16)));
      block.store(right, i, device::narrow<T>(value(1, i / 16, i % 16)));
    }
    block.sync();
    uint32_t a[4], b[4];
    const auto from = device::left_rows(block.lane(), 0, 0);
    const auto to =
        kTurned ? device::turned_rows(block.lane(), 0, 0) : device::right_rows(block.lane(), 0, 0);
    block.template load_matrices<false>(a, left, from.row * 16 + from.col);
    block.template load_matrices<kTurned>(b, right, to.row * 16 + to.col);
    for (int half = 0; half < 2; ++half) {
      float c[4] = {1, 1, 1, 1};
      block.template multiply<T>(c, a, b[2 * half], b[2 * half + 1]);
      for (int e = 0; e < 4; ++e) {
        const int row = device::Accumulator::row(block.lane(), e);
        const int col = half * 8 + device::Accumulator::col(block.lane(), e);
        float sum = 1;
        for (int k = 0; k < 16; ++k)
          sum += value(0, row, k) * (kTurned ? value(1, k, col) : value(1, col, k));
        EXPECT_EQ(c[e], sum) << row << ", " << col;
      }
    }
  });
}

TEST(EmulatedBlock, MultipliesMatrices) {
  check_product<BFloat16, false>();
  check_product<BFloat16, true>();
  check_product<Float16, false>();
  check_product<Float16, true>();
}

}  // namespace
}  // namespace axial::kernels::test
