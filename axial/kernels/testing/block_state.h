// SPDX-License-Identifier: Apache-2.0
// What the threads of one emulated block share: its memory, and who waits for whom. Used by emulated_block.h.
#pragma once

#include <vector>

#include "axial/kernels/device/device.h"
#include "axial/kernels/testing/fibers.h"
#include "axial/kernels/testing/shared_memory.h"

namespace axial::kernels::test {

/// What the threads of one block share.
struct BlockState {
  struct Warp {
    const char* call = nullptr;  // the one that lanes wait in, and its line: it is the very same
    int line = 0;
    int arrived = 0;
    int64_t calls = 0;
    void* lanes[device::kWarp] = {};
  };
  BlockState(int threads, int shared_bytes, int64_t block_index)
      : shared(shared_bytes), index(block_index), warps(static_cast<size_t>(threads / device::kWarp)) {}
  SharedMemory shared;
  int64_t index;
  std::vector<Warp> warps;
  int at_barrier = 0;
  int64_t barriers = 0;
  Fibers* fibers = nullptr;
};

}  // namespace axial::kernels::test
