// SPDX-License-Identifier: Apache-2.0
// The two torch-free ParallelFor's: serial, and std::thread for tests (OpenMP confuses tsan).
#include "axial/core/parallel_for/parallel_for.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace axial {

ParallelFor serial_parallel_for() {
  return [](int64_t n, int64_t, const RangeBody& body) {
    if (n > 0) body(0, n);
  };
}

ParallelFor thread_parallel_for(int num_threads) {
  return [num_threads](int64_t n, int64_t grain, const RangeBody& body) {
    if (n <= 0) return;
    const int64_t most = (n + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
    const int64_t pieces = std::clamp<int64_t>(num_threads, 1, most);
    const int64_t share = (n + pieces - 1) / pieces;
    std::exception_ptr first;
    std::mutex mutex;
    std::vector<std::thread> threads;
    for (int64_t begin = 0; begin < n; begin += share) {
      threads.emplace_back([&, begin] {
        try {
          body(begin, std::min(n, begin + share));
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
  };
}

}  // namespace axial
