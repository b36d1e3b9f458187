// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of attention on an emulated block, against the reference in fp64: error at most twice that
// of the reference in the kernel's own precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/kernels/attention/attention_case.h"
#include "axial/kernels/attention/cuda/launch.h"
#include "axial/kernels/attention/cuda/run.h"
#include "axial/kernels/attention/implementations.h"
#include "axial/kernels/testing/emulated_grid.h"

namespace axial::kernels {
namespace {

using test::AttentionCase;
using test::AttentionShape;
using test::Buffer;

namespace cuda = attention::cuda;

struct Results {
  Buffer out, statistics, dq, dk, dv, dbias[2];
  std::vector<Buffer*> gradients() { return {&dq, &dk, &dv, &dbias[0], &dbias[1]}; }
};

Results empty_results(const AttentionCase& c) {
  return {
      {c.dtype(), c.query_elements()}, {test::statistic_type(c.dtype()), c.statistics()},
      {c.dtype(), c.query_elements()}, {c.dtype(), c.key_elements()},
      {c.dtype(), c.key_elements()},   {{c.dtype(), c.bias_elements(0)}, {c.dtype(), c.bias_elements(1)}}};
}

AttentionForward forward_of(AttentionCase& c, Results& r) {
  AttentionForward p;
  p.in = c.inputs();
  p.out = c.tensor(r.out.data(), c.dtype(), c.shape().queries, c.shape().heads);
  p.statistics = r.statistics.data();
  return p;
}

AttentionBackward backward_of(AttentionCase& c, Results& r) {
  const AttentionForward forward = forward_of(c, r);
  AttentionBackward p;
  p.in = forward.in;
  p.out = forward.out;
  p.statistics = forward.statistics;
  p.dout = c.dout();
  p.dq = c.tensor(r.dq.data(), c.dtype(), c.shape().queries, c.shape().heads);
  p.dk = c.tensor(r.dk.data(), c.dtype(), c.shape().keys, c.shape().kv_heads);
  p.dv = c.tensor(r.dv.data(), c.dtype(), c.shape().keys, c.shape().kv_heads);
  for (int b = 0; b < 2; ++b) {
    if (c.shape().has_bias[b]) p.dbias[b] = c.bias(b, r.dbias[b].data(), c.dtype());
  }
  return p;
}

Results reference(AttentionCase c) {
  Results result = empty_results(c);
  AttentionForward forward = forward_of(c, result);
  AttentionBackward backward = backward_of(c, result);
  std::vector<char> workspace(static_cast<size_t>(
      std::max(attention::reference_workspace(forward), attention::reference_workspace(backward))));
  forward.workspace = backward.workspace = workspace.data();
  EXPECT_TRUE(attention::reference_forward(forward, serial_parallel_for()).ok());
  EXPECT_TRUE(attention::reference_backward(backward, serial_parallel_for()).ok());
  return result;
}

struct EmulatedGrid {
  using Block = test::EmulatedBlock<cuda::kThreads>;
  bool backwards = false;

  template <class Kernel, class... Args>
  void run(const Args&... args) const {
    test::run_grid<cuda::kThreads>(
        Kernel::blocks(args...), Kernel::kSharedBytes, [&](Block& block) { Kernel(block, args...).run(); },
        backwards);
  }
};

Results emulated(AttentionCase c, bool backwards = false) {
  Results result = empty_results(c);
  const AttentionForward forward = forward_of(c, result);
  const AttentionBackward backward = backward_of(c, result);
  const EmulatedGrid grid{backwards};
  const auto run = [&]<class T>() {
    cuda::for_width(c.shape().width, [&]<int kWidth>() {
      EXPECT_TRUE(cuda::supports(forward).ok() && cuda::supports(backward).ok());
      cuda::run_forward<T, kWidth>(forward, grid);
      Buffer workspace(DType::kF32, cuda::workspace_bytes(backward) / 4);
      cuda::run_backward<T, kWidth>(backward, static_cast<float*>(workspace.data()), grid);
      EXPECT_TRUE(workspace.guards_intact());
    });
  };
  c.dtype() == DType::kBF16 ? run.template operator()<BFloat16>() : run.template operator()<Float16>();
  EXPECT_TRUE(result.out.guards_intact() && result.statistics.guards_intact());
  for (const Buffer* gradient : result.gradients()) EXPECT_TRUE(gradient->guards_intact());
  return result;
}

void expect_exact(const AttentionShape& shape, DType dtype) {
  SCOPED_TRACE(fmt::format("{} {}", shape.name, name_of(dtype)));
  const AttentionCase c(shape, dtype);
  Results truth = reference(c.widened()), plain = reference(c), got = emulated(c);
  EXPECT_TRUE(test::within_twice(got.out, plain.out, truth.out)) << "out";
  for (int64_t i = 0; i < truth.statistics.size(); ++i) {
    const double expected = truth.statistics.get(i), actual = got.statistics.get(i);
    if (std::isfinite(expected)) {
      EXPECT_NEAR(actual, expected, 1e-4 * std::max(1.0, std::abs(expected))) << "statistic " << i;
    } else {
      EXPECT_EQ(actual, expected) << "statistic " << i;
    }
  }
  const char* names[] = {"dq", "dk", "dv", "dbias0", "dbias1"};
  for (int i = 0; i < 5; ++i) {
    // A bias that is the same for all keys changes nothing: its gradient is a sum that cancels.
    const bool cancels = i >= 3 && shape.bias[static_cast<size_t>(i - 3)].find('k') == std::string::npos;
    const double terms = cancels ? test::largest(truth.dv) * std::sqrt(c.query_elements()) : 0;
    EXPECT_TRUE(test::within_twice(*got.gradients()[i], *plain.gradients()[i], *truth.gradients()[i], terms))
        << names[i];
  }
}

// Blocks of threads are run thousands of times slower than on a device: cases of a few tiles.
bool is_small(const AttentionShape& s) {
  int64_t tiles =
      s.heads * attention::ceil_div(s.queries, cuda::kTile) * attention::ceil_div(s.keys, cuda::kTile);
  for (const int64_t n : s.leading) tiles *= n;
  return s.width <= cuda::kMostWidth && tiles <= 100;
}

TEST(CudaAttention, IsWithinTwiceThePlainLoops) {
  int cases = 0;
  for (const AttentionShape& shape : test::attention_shapes()) {
    if (!is_small(shape)) continue;
    expect_exact(shape, ++cases % 2 == 0 ? DType::kF16 : DType::kBF16);
  }
  EXPECT_GT(cases, 20);
}

AttentionShape msa_row(int64_t length, int64_t width) {
  return test::with_bias(AttentionShape{.name = fmt::format("msa row of {} x {}", length, width),
                                        .leading = {1, 2},
                                        .queries = length,
                                        .keys = length,
                                        .heads = 2,
                                        .kv_heads = 2,
                                        .width = width,
                                        .bias = {}},
                         "xk", "0hqk");
}

TEST(CudaAttention, ShortAndOddLengths) {
  for (const int64_t length : {1, 2, 7, 16, 17, 63, 65}) expect_exact(msa_row(length, 8), DType::kBF16);
}

TEST(CudaAttention, Widths) {
  for (const int64_t width : {1, 8, 12, 24, 48, 80, 128}) expect_exact(msa_row(20, width), DType::kF16);
}

TEST(CudaAttention, EqualForAnyOrderOfThreads) {
  AttentionShape shape = msa_row(70, 16);
  shape.causal = true;
  shape.masked = 0.2;
  const AttentionCase c(shape, DType::kBF16);
  Results forwards = emulated(c), backwards = emulated(c, true);
  EXPECT_TRUE(forwards.out.same_bytes(backwards.out));
  for (int i = 0; i < 5; ++i)
    EXPECT_TRUE(forwards.gradients()[i]->same_bytes(*backwards.gradients()[i])) << i;
}

TEST(CudaAttention, EmptyShapes) {
  for (const int empty : {0, 1, 2}) {
    AttentionShape shape = msa_row(5, 8);
    if (empty == 0) shape.keys = 0;
    if (empty == 1) shape.queries = 0;
    if (empty == 2) shape.leading = {1, 0};
    const AttentionCase c(shape, DType::kBF16);
    Results expected = reference(c), got = emulated(c);
    EXPECT_TRUE(got.out.same_bytes(expected.out)) << empty;
    for (int i = 0; i < 5; ++i)
      EXPECT_TRUE(got.gradients()[i]->same_bytes(*expected.gradients()[i])) << empty << i;
  }
}

// A query that sees nothing gives no gradient, whatever comes in for it.
TEST(CudaAttention, RowsThatSeeNothingGiveNothing) {
  AttentionShape shape = msa_row(20, 8);
  shape = test::with_bias(shape, "hqk", "xk");  // query 0 sees nothing through the first
  shape.row_masked = true;
  AttentionCase c(shape, DType::kBF16);
  Results expected = reference(c);
  const AttentionSizes s = c.inputs().sizes;
  for (int64_t x = 0; x < s.leading[1]; ++x) {
    for (int64_t i = 0; i < s.heads * s.width; ++i) {
      static_cast<BFloat16*>(c.dout().data)[x * c.dout().leading[1] + i] = BFloat16(NAN);
    }
  }
  Results got = emulated(c);
  EXPECT_TRUE(got.out.same_bytes(emulated(AttentionCase(shape, DType::kBF16)).out));
  for (int i = 0; i < 5; ++i) {  // two roundings of the largest
    Buffer &actual = *got.gradients()[i], &plain = *expected.gradients()[i];
    const double allowed = 2 * test::rounding(DType::kBF16) * test::largest(plain);
    for (int64_t e = 0; e < actual.size(); ++e) EXPECT_NEAR(actual.get(e), plain.get(e), allowed) << i;
  }
}

TEST(CudaAttention, RefusesWhatItDoesNotTake) {
  AttentionCase c(msa_row(5, 8), DType::kBF16);
  Results results = empty_results(c);
  AttentionForward forward = forward_of(c, results);
  forward.in.k.dtype = DType::kF32;
  EXPECT_FALSE(cuda::supports(forward).ok());
  forward = forward_of(c, results);
  forward.out.dtype = DType::kF32;
  EXPECT_THAT(cuda::supports(forward).text, ::testing::HasSubstr("expected bfloat16 as q, got float32"));
  forward = forward_of(c, results);
  forward.in.sizes.width = 129;
  EXPECT_THAT(cuda::supports(forward).text, ::testing::HasSubstr("expected at most 128, got 129"));
  AttentionBackward backward = backward_of(c, results);
  backward.dbias[0].dtype = DType::kF64;
  EXPECT_THAT(cuda::supports(backward).text, ::testing::HasSubstr("gradient of a bias"));
}

TEST(CudaAttention, SumsOfManyRowsAreShared) {
  AttentionShape shape = msa_row(20, 8);
  shape.leading = {1, 9};
  AttentionCase c(shape, DType::kBF16);
  Results results = empty_results(c);
  const cuda::BackwardPasses passes = cuda::passes_of(backward_of(c, results));
  EXPECT_EQ(passes.biases[1].splits, attention::kMaxSplits);  // and the parts are used
  EXPECT_GE(passes.parts, 0);
  expect_exact(shape, DType::kBF16);
}

}  // namespace
}  // namespace axial::kernels
