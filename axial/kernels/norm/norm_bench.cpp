// SPDX-License-Identifier: Apache-2.0
// One thread of layer_norm at the width of the 25M genome model: rows, columns, implementation.
#include "axial/kernels/common/bench_buffers.h"
#include "axial/kernels/norm/norm.h"

namespace axial::kernels {
namespace {

void BM_NormForward(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1);
  const auto& impl = norm_forward_table()[static_cast<size_t>(state.range(2))];
  const std::vector<float> x = bench::filled(rows * cols), weight = bench::filled(cols);
  const std::vector<float>& bias = weight;
  std::vector<float> y(x.size()), mean(static_cast<size_t>(rows)), rstd = mean;
  const NormForward params{.rows = rows,
                           .cols = cols,
                           .x = x.data(),
                           .x_stride = cols,
                           .weight = weight.data(),
                           .bias = bias.data(),
                           .y = y.data(),
                           .y_stride = cols,
                           .mean = mean.data(),
                           .rstd = rstd.data()};
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(impl.name);
  bench::report_bytes(state, 2 * rows * cols * 4);
}
BENCHMARK(BM_NormForward)->ArgsProduct({{2048}, {512, 4096}, {0, 1}});

void BM_NormBackward(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1);
  const auto& impl = norm_backward_table()[static_cast<size_t>(state.range(2))];
  const std::vector<float> x = bench::filled(rows * cols), weight = bench::filled(cols);
  const std::vector<float>& dy = x;
  const std::vector<float> mean(static_cast<size_t>(rows), 0.0f), rstd(static_cast<size_t>(rows), 1.0f);
  std::vector<float> dx(x.size()), dweight(static_cast<size_t>(cols)), dbias = dweight;
  NormBackward params{.rows = rows,
                      .cols = cols,
                      .dy = dy.data(),
                      .dy_stride = cols,
                      .x = x.data(),
                      .x_stride = cols,
                      .weight = weight.data(),
                      .mean = mean.data(),
                      .rstd = rstd.data(),
                      .dx = dx.data(),
                      .dx_stride = cols,
                      .dweight = dweight.data(),
                      .dbias = dbias.data()};
  std::vector<float> workspace(static_cast<size_t>(workspace_bytes(params) / 4));
  params.workspace = workspace.data();
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(impl.name);
  bench::report_bytes(state, 3 * rows * cols * 4);
}
BENCHMARK(BM_NormBackward)->ArgsProduct({{2048}, {512, 4096}, {0, 1}});

}  // namespace
}  // namespace axial::kernels
