// SPDX-License-Identifier: Apache-2.0
// Gradient of row lookup: vocabulary, columns, ids, distinct ids in use, implementation; one thread.
// Four letters of a vocabulary of 69 are a genome. Bytes: gradient rows read, weight rows written.
#include "axial/kernels/common/bench_buffers.h"
#include "axial/kernels/embedding/embedding.h"

namespace axial::kernels {
namespace {

void BM_EmbeddingBackward(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1), count = state.range(2);
  const auto& impl = embedding_backward_table()[static_cast<size_t>(state.range(4))];
  const std::vector<float> dout = bench::filled(count * cols);
  std::vector<float> dweight(static_cast<size_t>(rows * cols));
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int64_t>(random_below(root_key(1), i, static_cast<uint64_t>(state.range(3))));
  }
  EmbeddingBackward params{.rows = rows,
                           .cols = cols,
                           .count = count,
                           .ids = ids.data(),
                           .dout = dout.data(),
                           .dout_stride = cols,
                           .dweight = dweight.data(),
                           .dweight_stride = cols};
  std::vector<int64_t> workspace(static_cast<size_t>(workspace_bytes(params)) / sizeof(int64_t));
  params.workspace = workspace.data();
  for (auto _ : state) benchmark::DoNotOptimize(impl.run(params, serial_parallel_for()).ok());
  state.SetLabel(impl.name);
  bench::report_bytes(state, (rows + count) * cols * 4);
}
BENCHMARK(BM_EmbeddingBackward)
    ->ArgsProduct({{69}, {512}, {2048, 32768}, {4, 69}, {0, 1}})
    ->ArgsProduct({{50257}, {768}, {8192}, {50257}, {0, 1}});

}  // namespace
}  // namespace axial::kernels
