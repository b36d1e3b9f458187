// SPDX-License-Identifier: Apache-2.0
// One thread at the vocabularies of the genome model (69) and of a text model: vocabulary, implementation.
#include "axial/kernels/common/bench_buffers.h"
#include "axial/kernels/cross_entropy/cross_entropy.h"

namespace axial::kernels {
namespace {

int64_t rows_of(int64_t vocabulary) { return vocabulary < 1000 ? 2048 : 64; }

std::vector<int64_t> labels_of(int64_t rows, int64_t vocabulary) {
  std::vector<int64_t> labels;
  for (int64_t r = 0; r < rows; ++r) labels.push_back(r * 37 % vocabulary);
  return labels;
}

void BM_CrossEntropyForward(benchmark::State& state) {
  const int64_t cols = state.range(0), rows = rows_of(cols);
  const auto& impl = cross_entropy_forward_table()[static_cast<size_t>(state.range(1))];
  const std::vector<float> logits = bench::filled(rows * cols);
  const std::vector<int64_t> labels = labels_of(rows, cols);
  std::vector<float> log_sum_exp(labels.size()), likelihood(labels.size());
  const CrossEntropyForward params{.rows = rows,
                                   .cols = cols,
                                   .logits = logits.data(),
                                   .stride = cols,
                                   .labels = labels.data(),
                                   .log_sum_exp = log_sum_exp.data(),
                                   .log_likelihood = likelihood.data()};
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(impl.name);
  bench::report_bytes(state, rows * cols * 4);
}
BENCHMARK(BM_CrossEntropyForward)->ArgsProduct({{69, 50000}, {0, 1}});

void BM_CrossEntropyBackward(benchmark::State& state) {
  const int64_t cols = state.range(0), rows = rows_of(cols);
  const auto& impl = cross_entropy_backward_table()[static_cast<size_t>(state.range(1))];
  const std::vector<float> logits = bench::filled(rows * cols);
  const std::vector<int64_t> labels = labels_of(rows, cols);
  const std::vector<float> log_sum_exp(labels.size(), 12.0f);
  std::vector<float> gradient(logits.size());
  const CrossEntropyBackward params{.rows = rows,
                                    .cols = cols,
                                    .logits = logits.data(),
                                    .stride = cols,
                                    .labels = labels.data(),
                                    .log_sum_exp = log_sum_exp.data(),
                                    .grad_logits = gradient.data()};
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(impl.name);
  bench::report_bytes(state, 2 * rows * cols * 4);
}
BENCHMARK(BM_CrossEntropyBackward)->ArgsProduct({{69, 50000}, {0, 1}});

}  // namespace
}  // namespace axial::kernels
