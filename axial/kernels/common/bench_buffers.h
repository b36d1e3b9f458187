// SPDX-License-Identifier: Apache-2.0
// For kernel benchmarks only: filled buffers, and memory traffic as bytes per second.
#pragma once

#include <benchmark/benchmark.h>

#include <vector>

#include "axial/core/rng/rng.h"

namespace axial::kernels::bench {

/// `count` normal values; 64 distinct ones repeated, so that filling does not dominate.
inline std::vector<float> filled(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = i < 64 ? static_cast<float>(random_normal(root_key(1), i)) : out[i % 64];
  }
  return out;
}

/// Report `bytes` per iteration, read or written once, as GB/s.
inline void report_bytes(benchmark::State& state, int64_t bytes) {
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(bytes), benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

}  // namespace axial::kernels::bench
