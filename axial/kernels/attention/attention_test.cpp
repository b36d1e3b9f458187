// SPDX-License-Identifier: Apache-2.0
// Every implementation of attention.h against the reference in fp64, and the reference against the formula.
#include "axial/kernels/attention/attention.h"

#include <gtest/gtest.h>

#include "axial/kernels/attention/attention_case.h"
#include "axial/kernels/attention/implementations.h"
#include "axial/kernels/common/test_targets.h"

namespace axial::kernels {
namespace {

using test::AttentionCase;
using test::AttentionShape;
using test::Buffer;

template <class Params>
Buffer workspace_of(const Implementation<Params>& impl, const Params& params) {
  int64_t bytes = 0;
  if (impl.name == std::string("reference")) {
    bytes = attention::reference_workspace(params);
  } else if (impl.name == std::string("simd") || impl.name == std::string("amx")) {
    bytes = attention::simd_workspace(params);
  } else if constexpr (std::is_same_v<Params, AttentionForward>) {
    bytes = attention::few_workspace(params);
  }
  return {DType::kF32, (bytes + 3) / 4};
}

template <class Params>
Buffer tile_workspace_of(const Params& params) {
  return {DType::kF32, tile_workspace_bytes(params) / 4 + 1};
}

const Implementation<AttentionForward>& forward_named(const std::string& name) {
  for (const auto& impl : attention_forward_table()) {
    if (impl.name == name) return impl;
  }
  return attention_forward_table().back();
}

struct Forward {
  Buffer out, statistics;
};

Forward run_forward(const Implementation<AttentionForward>& impl, AttentionCase c,
                    const ParallelFor& parallel_for, int64_t threads = 1) {
  Forward result{{c.dtype(), c.query_elements()}, {test::statistic_type(c.dtype()), c.statistics()}};
  AttentionForward params;
  params.in = c.inputs();
  params.out = c.tensor(result.out.data(), c.dtype(), c.shape().queries, c.shape().heads);
  if (impl.name != std::string("few")) params.statistics = result.statistics.data();
  params.num_threads = threads;
  Buffer workspace = workspace_of(impl, params);
  params.workspace = workspace.data();
  Buffer tile_workspace = tile_workspace_of(params);
  params.tile_workspace = tile_workspace.data();
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  EXPECT_TRUE(result.out.guards_intact() && result.statistics.guards_intact() && workspace.guards_intact() &&
              tile_workspace.guards_intact());
  return result;
}

// Every forward but the reference that takes the case.
std::vector<const Implementation<AttentionForward>*> forwards_of(AttentionCase c) {
  std::vector<const Implementation<AttentionForward>*> found;
  AttentionForward params;
  params.in = c.inputs();
  params.tile_workspace = &found;  // any: it is not read
  for (const auto& impl : attention_forward_table().first(attention_forward_table().size() - 1)) {
    if (impl.supports(params).ok()) found.push_back(&impl);
  }
  EXPECT_FALSE(found.empty());
  return found;
}

// Every backward but the reference that takes the case.
std::vector<const Implementation<AttentionBackward>*> backwards_of(AttentionCase c) {
  std::vector<const Implementation<AttentionBackward>*> found;
  AttentionBackward params;
  params.in = c.inputs();
  params.tile_workspace = &found;
  for (const auto& impl : attention_backward_table().first(attention_backward_table().size() - 1)) {
    if (impl.supports(params).ok()) found.push_back(&impl);
  }
  EXPECT_FALSE(found.empty());
  return found;
}

struct Backward {
  Buffer dq, dk, dv, dbias[2];
};

Backward run_backward(const Implementation<AttentionBackward>& impl, AttentionCase c,
                      const ParallelFor& parallel_for, int64_t threads = 1) {
  Forward saved = run_forward(forward_named(impl.name), c, serial_parallel_for());
  const AttentionShape& s = c.shape();
  Backward result{{c.dtype(), c.query_elements()},
                  {c.dtype(), c.key_elements()},
                  {c.dtype(), c.key_elements()},
                  {{c.dtype(), c.bias_elements(0)}, {c.dtype(), c.bias_elements(1)}}};
  AttentionBackward params;
  params.in = c.inputs();
  params.out = c.tensor(saved.out.data(), c.dtype(), s.queries, s.heads);
  params.statistics = saved.statistics.data();
  params.dout = c.dout();
  params.dq = c.tensor(result.dq.data(), c.dtype(), s.queries, s.heads);
  params.dk = c.tensor(result.dk.data(), c.dtype(), s.keys, s.kv_heads);
  params.dv = c.tensor(result.dv.data(), c.dtype(), s.keys, s.kv_heads);
  for (int b = 0; b < 2; ++b) {
    if (s.has_bias[b]) params.dbias[b] = c.bias(b, result.dbias[b].data(), c.dtype());
  }
  params.num_threads = threads;
  Buffer workspace = workspace_of(impl, params);
  params.workspace = workspace.data();
  Buffer tile_workspace = tile_workspace_of(params);
  params.tile_workspace = tile_workspace.data();
  EXPECT_TRUE(impl.supports(params).ok());
  EXPECT_TRUE(impl.run(params, parallel_for).ok());
  for (Buffer* b : {&result.dq, &result.dk, &result.dv, &result.dbias[0], &result.dbias[1], &workspace,
                    &tile_workspace}) {
    EXPECT_TRUE(b->guards_intact());
  }
  return result;
}

void expect_within(Buffer& actual, Buffer& plain, Buffer& truth, double terms, const char* what) {
  EXPECT_TRUE(test::within_twice(actual, plain, truth, terms)) << what;
}

void check_shape(const AttentionShape& shape, DType dtype) {
  SCOPED_TRACE(fmt::format("{} {}", shape.name, name_of(dtype)));
  const AttentionCase c(shape, dtype);
  const auto serial = serial_parallel_for();
  Forward truth = run_forward(attention_forward_table().back(), c.widened(), serial);
  Forward plain = run_forward(attention_forward_table().back(), c, serial);
  Backward true_grads = run_backward(attention_backward_table().back(), c.widened(), serial);
  Backward plain_grads = run_backward(attention_backward_table().back(), c, serial);
  test::for_each_target([&] {
    for (const auto* impl : forwards_of(c)) {
      Forward actual = run_forward(*impl, c, serial);
      expect_within(actual.out, plain.out, truth.out, 0, impl->name);
    }
    for (const auto* impl : backwards_of(c)) {
      SCOPED_TRACE(impl->name);
      Backward grads = run_backward(*impl, c, serial);
      expect_within(grads.dq, plain_grads.dq, true_grads.dq, 0, "dq");
      expect_within(grads.dk, plain_grads.dk, true_grads.dk, 0, "dk");
      expect_within(grads.dv, plain_grads.dv, true_grads.dv, 0, "dv");
      for (int b = 0; b < 2; ++b) {
        // A bias that is the same for all keys changes nothing: its gradient is a sum that cancels.
        const bool cancels = shape.bias[b].find('k') == std::string::npos;
        const double terms = cancels ? test::largest(true_grads.dv) * std::sqrt(c.query_elements()) : 0;
        expect_within(grads.dbias[b], plain_grads.dbias[b], true_grads.dbias[b], terms,
                      b == 0 ? "dbias0" : "dbias1");
      }
    }
  });
}

TEST(Attention, IsWithinTwiceThePlainLoops) {
  for (const AttentionShape& shape : test::attention_shapes()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) check_shape(shape, dtype);
  }
}

TEST(Attention, EveryShortLength) {
  for (int64_t n = 1; n <= 17; ++n) {
    AttentionShape shape{.name = fmt::format("length {}", n),
                         .leading = {2},
                         .queries = n,
                         .keys = n,
                         .heads = 2,
                         .kv_heads = 2,
                         .width = 8};
    check_shape(test::with_bias(shape, "xk", "hqk"), DType::kF32);
  }
}

void check_threads(const AttentionShape& shape, DType dtype) {
  SCOPED_TRACE(fmt::format("{} {}", shape.name, name_of(dtype)));
  const AttentionCase c(shape, dtype);
  for (const auto* impl : forwards_of(c)) {
    Forward first = run_forward(*impl, c, serial_parallel_for());
    for (const int threads : test::kThreadCounts) {
      Forward again = run_forward(*impl, c, thread_parallel_for(threads), threads);
      EXPECT_TRUE(again.out.same_bytes(first.out) && again.statistics.same_bytes(first.statistics))
          << impl->name << threads;
    }
  }
  for (const auto* impl : backwards_of(c)) {
    Backward first = run_backward(*impl, c, serial_parallel_for());
    for (const int threads : test::kThreadCounts) {
      Backward again = run_backward(*impl, c, thread_parallel_for(threads), threads);
      EXPECT_TRUE(again.dq.same_bytes(first.dq) && again.dk.same_bytes(first.dk) &&
                  again.dv.same_bytes(first.dv) && again.dbias[0].same_bytes(first.dbias[0]) &&
                  again.dbias[1].same_bytes(first.dbias[1]))
          << impl->name << threads;
    }
  }
}

TEST(Attention, BitwiseEqualForAnyNumberOfThreads) {
  for (const AttentionShape& shape : test::attention_shapes()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) check_threads(shape, dtype);
  }
}

// An MSA row of `rows` x 384 with 8 heads of 8, as AlphaFold's extra MSA: both biases, every gradient.
AttentionBackward extra_msa(int64_t rows) {
  constexpr int64_t kLength = 384, kHeads = 8, kWidth = 8;
  static char something;
  AttentionBackward p;
  p.in.sizes = {.num_leading = 2,
                .leading = {1, rows},
                .queries = kLength,
                .keys = kLength,
                .heads = kHeads,
                .kv_heads = kHeads,
                .width = kWidth};
  AttentionTensor tensor{.data = &something, .row = kHeads * kWidth, .head = kWidth};
  tensor.leading[1] = kLength * kHeads * kWidth;
  p.in.q = p.in.k = p.in.v = p.out = p.dout = p.dq = p.dk = p.dv = tensor;
  p.in.bias[0] = {.data = &something, .key = 1};
  p.in.bias[0].leading[1] = kLength;
  p.in.bias[1] = {.data = &something, .head = kLength * kLength, .query = kLength, .key = 1};
  p.dbias[0] = p.in.bias[0];
  p.dbias[1] = p.in.bias[1];
  p.num_threads = 2;
  return p;
}

TEST(Attention, WorkspaceIsAFewSplitsOfTheGradients) {
  const AttentionForward few{.in = extra_msa(64).in, .num_threads = 2};
  const AttentionForward many{.in = extra_msa(5120).in, .num_threads = 2};
  EXPECT_EQ(workspace_bytes(few), workspace_bytes(many));
  EXPECT_LT(workspace_bytes(many), 2 << 20);
  const int64_t one_split = 4 * 8 * 384 * 384, mask = 4 * 5120 * 8 * 384, threads = 2 * (2 << 20);
  EXPECT_LT(workspace_bytes(extra_msa(5120)), 8 * one_split + mask + threads);
  EXPECT_GT(int64_t{4} * 5120 * 8 * 384 * 384, 100 * workspace_bytes(extra_msa(5120))) << "the logits alone";
}

// A gradient that keeps a dim is no sum over it: there is nothing to share, however the other one is summed.
TEST(Attention, WorkspaceHoldsNoGradientThatKeepsTheRows) {
  constexpr int64_t kRows = 640, kOne = 8 * 384 * 384;
  for (const bool summed : {false, true}) {
    for (const bool expanded : {false, true}) {
      AttentionBackward p = extra_msa(kRows);
      p.dbias[1].leading[1] = kOne;
      if (!expanded) p.in.bias[1].leading[1] = kOne;
      if (summed) {
        p.in.bias[0] = {.data = p.in.q.data, .head = 384 * 384, .query = 384, .key = 1};
        p.dbias[0] = p.in.bias[0];
      }
      const int64_t shares = summed ? 8 * 4 * kOne : 4 * kRows * 8 * 384, threads = 2 * (4 << 20);
      EXPECT_LT(workspace_bytes(p), shares + threads) << summed << expanded;
    }
  }
}

TEST(Attention, LongLengths) {
  const AttentionShape odd{
      .name = "1023", .leading = {2}, .queries = 1023, .keys = 1023, .heads = 1, .kv_heads = 1, .width = 8};
  check_shape(test::with_bias(odd, "xk", "hqk"), DType::kF32);
  const AttentionShape long_one{
      .name = "5120", .leading = {}, .queries = 5120, .keys = 5120, .heads = 1, .kv_heads = 1, .width = 8};
  check_shape(test::with_bias(long_one, "k"), DType::kF32);
}

// More keys, and more queries, than are summed in one piece anywhere, for widths that fill no tile.
TEST(Attention, WidthsOverManyBlocks) {
  for (const int64_t width : {24, 33, 64, 100, 144}) {
    AttentionShape shape{.name = fmt::format("width {}", width),
                         .leading = {},
                         .queries = 300,
                         .keys = 531,
                         .heads = 2,
                         .kv_heads = 1,
                         .width = width};
    check_shape(test::with_bias(shape, "k", "hqk"), DType::kBF16);
    check_shape(shape, DType::kBF16);
  }
}

TEST(Attention, ResultsThatGoPastTheCaches) {
  const AttentionShape shape{
      .name = "16 MiB", .leading = {1050}, .queries = 16, .keys = 2, .heads = 8, .kv_heads = 8, .width = 32};
  check_shape(shape, DType::kF32);
}

// More keys than P and dP are kept for: delta comes from the output.
TEST(Attention, MoreKeysThanAreKeptWhole) {
  AttentionShape shape{
      .name = "4200 keys", .leading = {}, .queries = 5, .keys = 4200, .heads = 1, .kv_heads = 1, .width = 8};
  check_shape(test::with_bias(shape, "k", "hqk"), DType::kF32);
}

}  // namespace
}  // namespace axial::kernels
