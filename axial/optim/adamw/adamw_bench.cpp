// SPDX-License-Identifier: Apache-2.0
// An AdamW step over 25 million fp32 parameters beside torch's fused one in the same program: plain, with the
// bf16 values that a step of 16 bits leaves, and with states outside of the device.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include <filesystem>

#include "axial/optim/adamw/adamw.h"

namespace axial::optim {
namespace {

using parallel::OffloadTo;

constexpr int64_t kRows = 25, kWidth = 1000;  // rows of [kWidth, kWidth]

void torch_fused(benchmark::State& state, bool with_copy) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> values, copies, gradients, exp_avgs, exp_avg_sqs, steps;
  for (int64_t i = 0; i < kRows; ++i) {
    values.push_back(at::full({kWidth, kWidth}, 0.5));
    copies.push_back(values.back().to(at::kBFloat16));
    gradients.push_back(at::full({kWidth, kWidth}, 0.1));
    exp_avgs.push_back(at::zeros({kWidth, kWidth}));
    exp_avg_sqs.push_back(at::zeros({kWidth, kWidth}));
    steps.push_back(at::ones({}));
  }
  for (auto _ : state) {
    for (at::Tensor& step : steps) step.add_(1);
    at::_fused_adamw_(values, gradients, exp_avgs, exp_avg_sqs, {}, steps, 1e-3, 0.9, 0.95, 0.1, 1e-8, false,
                      false);
    if (with_copy) at::_foreach_copy_(copies, values);
  }
}

void axial(benchmark::State& state, at::ScalarType dtype, OffloadTo to) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  parallel::ParameterTable table;
  for (int64_t i = 0; i < kRows; ++i) {
    table.declare({fmt::format("w{}", i), {kWidth, kWidth}, parallel::Initializer::ones()});
  }
  if (to != OffloadTo::kNone) {
    table.offload_companions(
        parallel::OffloadStore::make({.to = to, .folder = std::filesystem::temp_directory_path()}));
  }
  table.materialize(at::kCPU, dtype, 1);
  for (const auto& row : table.rows()) row->grad = at::full({kWidth, kWidth}, 0.1);
  AdamW adamw({}, table);
  for (auto _ : state) adamw.step(1e-3, 1.0);
}

#define ADAMW(function, name, ...) \
  BENCHMARK_CAPTURE(function, name, __VA_ARGS__)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond)

ADAMW(torch_fused, fp32, false);
ADAMW(axial, fp32, at::kFloat, OffloadTo::kNone);
ADAMW(axial, fp32_on_the_host, at::kFloat, OffloadTo::kHost);
ADAMW(torch_fused, fp32_and_bf16_copy, true);
ADAMW(axial, fp32_and_bf16_copy, at::kBFloat16, OffloadTo::kNone);
ADAMW(axial, fp32_and_bf16_copy_on_the_host, at::kBFloat16, OffloadTo::kHost);
ADAMW(axial, fp32_and_bf16_copy_in_a_file, at::kBFloat16, OffloadTo::kFile);

}  // namespace
}  // namespace axial::optim
