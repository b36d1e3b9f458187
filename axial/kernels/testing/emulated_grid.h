// SPDX-License-Identifier: Apache-2.0
// Runs a kernel over all blocks of a grid on the host, one block after the other. For tests of kernels only.
#pragma once

#include "axial/kernels/testing/emulated_block.h"

namespace axial::kernels::test {

/// Run kernel(block) for every block of a grid, forwards or, where `backwards`, with blocks, warps and lanes
/// in the opposite order. Throws what a thread throws.
template <int kThreads, class Kernel>
void run_grid(int64_t blocks, int shared_bytes, const Kernel& kernel, bool backwards = false) {
  const FiberStacks stacks(kThreads);
  for (int64_t n = 0; n < blocks; ++n) {
    BlockState state(kThreads, shared_bytes, backwards ? blocks - 1 - n : n);
    std::vector<EmulatedBlock<kThreads>> threads;
    for (int i = 0; i < kThreads; ++i) threads.emplace_back(state, i);
    Fibers fibers(stacks, backwards, [&](int i) { kernel(threads[static_cast<size_t>(i)]); });
    state.fibers = &fibers;
    fibers.run([&](int i) {
      const char* call = threads[static_cast<size_t>(i)].waits_for();
      return fmt::format("thread {} in {}", i, call == nullptr ? "nothing" : call);
    });
  }
}

}  // namespace axial::kernels::test
