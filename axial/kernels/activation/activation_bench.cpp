// SPDX-License-Identifier: Apache-2.0
// One thread at the feed-forward width of the 25M genome model: function, implementation.
#include "axial/kernels/activation/activation.h"
#include "axial/kernels/common/bench_buffers.h"

namespace axial::kernels {
namespace {

constexpr int64_t kRows = 2048;
constexpr int64_t kCols = 2048;
constexpr const char* kNames[] = {"gelu_erf", "gelu_tanh", "silu", "relu"};

void BM_ActivationForward(benchmark::State& state) {
  const auto& impl = activation_forward_table()[static_cast<size_t>(state.range(1))];
  const std::vector<float> x = bench::filled(kRows * kCols), bias = bench::filled(kCols);
  std::vector<float> y(x.size());
  const ActivationForward params{.kind = static_cast<Activation>(state.range(0)),
                                 .rows = kRows,
                                 .cols = kCols,
                                 .x = x.data(),
                                 .x_stride = kCols,
                                 .bias = bias.data(),
                                 .y = y.data(),
                                 .y_stride = kCols};
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(std::string(kNames[state.range(0)]) + " " + impl.name);
  bench::report_bytes(state, 2 * kRows * kCols * 4);
}
BENCHMARK(BM_ActivationForward)->ArgsProduct({{0, 1, 2, 3}, {0, 1}});

void BM_ActivationBackward(benchmark::State& state) {
  const auto& impl = activation_backward_table()[static_cast<size_t>(state.range(1))];
  const std::vector<float> x = bench::filled(kRows * kCols), bias = bench::filled(kCols);
  const std::vector<float>& dy = x;
  std::vector<float> dx(x.size()), dbias(bias.size());
  ActivationBackward params{.kind = static_cast<Activation>(state.range(0)),
                            .rows = kRows,
                            .cols = kCols,
                            .dy = dy.data(),
                            .dy_stride = kCols,
                            .x = x.data(),
                            .x_stride = kCols,
                            .bias = bias.data(),
                            .dx = dx.data(),
                            .dx_stride = kCols,
                            .dbias = dbias.data()};
  std::vector<float> workspace(static_cast<size_t>(workspace_bytes(params) / 4));
  params.workspace = workspace.data();
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(std::string(kNames[state.range(0)]) + " " + impl.name);
  bench::report_bytes(state, 3 * kRows * kCols * 4);
}
BENCHMARK(BM_ActivationBackward)->ArgsProduct({{0, 1, 2, 3}, {0, 1}});

}  // namespace
}  // namespace axial::kernels
