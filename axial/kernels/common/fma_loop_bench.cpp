// SPDX-License-Identifier: Apache-2.0
// The fp32 multiply-adds that this machine can do at all: registers alone, as many chains as hide the
// latency. Kernels are set against it (benchmarks/attention.py). Compiled once per instruction set; the best
// one runs.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/common/fma_loop_bench.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "axial/kernels/common/simd_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

// Multiply-adds times two; `seed` and the result keep the compiler from knowing what is computed.
double fma_loop(int64_t rounds, float seed, float* result) {
  constexpr int kChains = 12;
  const FloatTag d;
  const Floats factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  Floats chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = hn::Set(d, seed + static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (Floats& chain : chains) chain = hn::MulAdd(chain, factor, term);
  }
  *result = 0;
  for (const Floats& chain : chains) *result += sum_lanes(chain);
  return 2.0 * kChains * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <benchmark/benchmark.h>

#include <vector>

#include "axial/core/parallel_for/parallel_for.h"

namespace axial::kernels {
HWY_EXPORT(fma_loop);
namespace {

void BM_FmaLoop(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const ParallelFor parallel_for = thread_parallel_for(threads);
  std::vector<double> operations(static_cast<size_t>(threads));
  double all = 0;
  for (auto _ : state) {
    parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float result = 0;
        operations[static_cast<size_t>(i)] =
            HWY_DYNAMIC_DISPATCH(fma_loop)(1 << 23, static_cast<float>(i), &result);
        benchmark::DoNotOptimize(result);
      }
    });
    for (const double n : operations) all += n;
  }
  state.counters["flops"] = benchmark::Counter(all, benchmark::Counter::kIsRate);
}
BENCHMARK(BM_FmaLoop)->ArgName("threads")->RangeMultiplier(2)->Range(1, 64)->UseRealTime();

}  // namespace
}  // namespace axial::kernels
#endif
