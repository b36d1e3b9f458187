// SPDX-License-Identifier: Apache-2.0
// One thread of attention over the shapes that its tests know: forward, and backward from its results.
#include "axial/kernels/attention/attention.h"

#include "axial/kernels/attention/attention_case.h"
#include "axial/kernels/common/bench_buffers.h"

namespace axial::kernels {
namespace {

using test::AttentionCase;
using test::AttentionShape;
using test::Buffer;

double logits_of(const AttentionShape& s) {
  double count = static_cast<double>(s.queries) * static_cast<double>(s.keys * s.heads);
  for (const int64_t n : s.leading) count *= static_cast<double>(n);
  return count;
}

void report(benchmark::State& state, const AttentionShape& shape) {
  const double logits = logits_of(shape) * static_cast<double>(state.iterations());
  state.counters["logits"] = benchmark::Counter(logits, benchmark::Counter::kIsRate);
}

struct Run {
  explicit Run(const AttentionShape& shape)
      : data(shape, DType::kF32),
        out(DType::kF32, data.query_elements()),
        statistics(DType::kF32, data.statistics()) {
    forward.in = data.inputs();
    forward.out = data.tensor(out.data(), DType::kF32, shape.queries, shape.heads);
    forward.statistics = statistics.data();
    workspace.resize(static_cast<size_t>(workspace_bytes(forward)));
    forward.workspace = workspace.data();
  }
  AttentionCase data;
  Buffer out, statistics;
  std::vector<char> workspace;
  AttentionForward forward;
};

void BM_AttentionForward(benchmark::State& state, const AttentionShape& shape) {
  Run run(shape);
  for (auto _ : state) benchmark::DoNotOptimize(attention_forward(run.forward, serial_parallel_for()).ok());
  report(state, shape);
}

void BM_AttentionBackward(benchmark::State& state, const AttentionShape& shape) {
  Run run(shape);
  AttentionCase& c = run.data;
  if (!attention_forward(run.forward, serial_parallel_for()).ok()) state.SkipWithError("forward failed");
  Buffer dq(DType::kF32, c.query_elements()), dk(DType::kF32, c.key_elements()), dv = dk;
  Buffer dbias[2] = {{DType::kF32, c.bias_elements(0)}, {DType::kF32, c.bias_elements(1)}};
  AttentionBackward p;
  p.in = run.forward.in;
  p.out = run.forward.out;
  p.statistics = run.forward.statistics;
  p.dout = c.dout();
  p.dq = c.tensor(dq.data(), DType::kF32, shape.queries, shape.heads);
  p.dk = c.tensor(dk.data(), DType::kF32, shape.keys, shape.kv_heads);
  p.dv = c.tensor(dv.data(), DType::kF32, shape.keys, shape.kv_heads);
  for (int b = 0; b < 2; ++b) {
    if (shape.has_bias[b]) p.dbias[b] = c.bias(b, dbias[b].data(), DType::kF32);
  }
  std::vector<char> workspace(static_cast<size_t>(workspace_bytes(p)));
  p.workspace = workspace.data();
  for (auto _ : state) benchmark::DoNotOptimize(attention_backward(p, serial_parallel_for()).ok());
  report(state, shape);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const AttentionShape& shape : test::attention_shapes()) {
    benchmark::RegisterBenchmark(("BM_AttentionForward/" + shape.name).c_str(), BM_AttentionForward, shape);
    benchmark::RegisterBenchmark(("BM_AttentionBackward/" + shape.name).c_str(), BM_AttentionBackward, shape);
  }
  return true;
}();

}  // namespace
}  // namespace axial::kernels
