// SPDX-License-Identifier: Apache-2.0
// How a kernel runs on several threads without owning any: the caller hands in a ParallelFor.
// Ops pass at::parallel_for, tests pass std::thread or a serial loop.
#pragma once

#include <cstdint>
#include <functional>

namespace axial {

/// Work on the half-open range [begin, end) of pieces.
using RangeBody = std::function<void(int64_t begin, int64_t end)>;

/// Cover [0, n) with disjoint ranges of at least `grain` pieces (but the last), in any order, on any
/// threads, and return when all are done. A kernel's result must not depend on how it is cut.
using ParallelFor = std::function<void(int64_t n, int64_t grain, const RangeBody& body)>;

/// The whole range at once on the calling thread.
ParallelFor serial_parallel_for();

/// `num_threads` std::threads with equal shares; the first exception is rethrown to the caller.
ParallelFor thread_parallel_for(int num_threads);

}  // namespace axial
