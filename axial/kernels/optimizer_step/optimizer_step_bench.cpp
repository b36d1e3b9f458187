// SPDX-License-Identifier: Apache-2.0
// AdamW over a model of 25 million fp32 parameters with a bf16 copy, and its gradient norm: vectors
// against plain loops. Bytes are what must move: 28 + 2 and 4 per parameter.
#include "axial/kernels/common/bench_buffers.h"
#include "axial/kernels/optimizer_step/implementations.h"

namespace axial::kernels {
namespace {

constexpr int64_t kCount = 25'000'000;

void adamw(benchmark::State& state, size_t implementation) {
  std::vector<float> parameter(kCount, 0.5f), moment(kCount, 0.1f), square(kCount, 0.01f), grad(kCount, 0.1f);
  std::vector<BFloat16> copy(kCount);
  const AdamWTensor tensor{.parameter = parameter.data(),
                           .exp_avg = moment.data(),
                           .exp_avg_sq = square.data(),
                           .grad = grad.data(),
                           .copy = copy.data(),
                           .count = kCount,
                           .lr = 1e-3,
                           .weight_decay = 0.1};
  const AdamWStep step{.tensors = {&tensor, 1}};
  const ParallelFor threads = thread_parallel_for(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    const Status status = adamw_step_table()[implementation].run(step, threads);
    if (!status.ok()) state.SkipWithError(status.text.c_str());
  }
  bench::report_bytes(state, kCount * 30);
}

void squares(benchmark::State& state, size_t implementation) {
  std::vector<float> grad(kCount, 0.1f);
  const ListedTensor tensor{grad.data(), kCount};
  double sum = 0;
  SumOfSquares params{.tensors = {&tensor, 1}, .sums = &sum};
  std::vector<double> workspace(static_cast<size_t>(workspace_bytes(params)) / sizeof(double));
  params.workspace = workspace.data();
  const ParallelFor threads = thread_parallel_for(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    const Status status = sum_of_squares_table()[implementation].run(params, threads);
    if (!status.ok()) state.SkipWithError(status.text.c_str());
    benchmark::DoNotOptimize(sum);
  }
  bench::report_bytes(state, kCount * 4);
}

BENCHMARK_CAPTURE(adamw, simd, 0)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(adamw, reference, 1)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(squares, simd, 0)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(squares, reference, 1)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace axial::kernels
