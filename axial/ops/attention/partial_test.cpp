// SPDX-License-Identifier: Apache-2.0
// Keys cut into pieces, computed one by one and merged, are attention over all of them; so are the gradients.
#include "axial/ops/attention/partial.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numeric>

#include "axial/testing/gradcheck/gradcheck.h"
#include "axial/testing/tolerance/tolerance.h"

namespace axial::ops {
namespace {

using at::Tensor;
using testing::random_normal;

// Two rows, a record border at 5, a window: what a query sees is an interval of keys, some see none.
constexpr int64_t kRows = 2, kQueries = 9, kKeys = 23, kHeads = 4, kGroups = 2, kWidth = 5;

struct Inputs {
  Tensor q, k, v, bias, grad, key_begin, key_end, slopes;
};

Inputs make(at::ScalarType type) {
  const auto random = [&](at::IntArrayRef shape, const char* name) {
    return random_normal(shape, at::kDouble, name).to(type);
  };
  Inputs in;
  in.q = random({kRows, kQueries, kHeads, kWidth}, "q");
  in.k = random({kRows, kKeys, kGroups, kWidth}, "k");
  in.v = random({kRows, kKeys, kGroups, kWidth}, "v");
  in.bias = random({kRows, 1, kQueries, kKeys}, "bias");
  in.grad = random({kRows, kQueries, kHeads, kWidth}, "grad");
  in.key_end = at::arange(kQueries, at::kLong) * 2 + at::tensor({0, 5}, at::kLong).unsqueeze(1);
  in.key_begin = at::clamp_min(in.key_end - 12, 2);
  in.slopes = at::tensor({0.5, 0.25, 0.125, 0.0625}, at::kFloat);
  return in;
}

AttentionPattern pattern_of(const Inputs& in, int64_t first) {
  AttentionPattern pattern;
  pattern.key_begin = in.key_begin - first;
  pattern.key_end = in.key_end - first;
  pattern.alibi_slopes = in.slopes;
  pattern.q_positions = at::arange(kQueries, at::kLong) - first;
  return pattern;
}

struct Results {
  Tensor out, dq, dk, dv, dbias;
};

Results whole(const Inputs& in, at::ScalarType type) {
  const auto leaf = [&](const Tensor& t) { return t.detach().to(type).clone().requires_grad_(); };
  const Tensor q = leaf(in.q), k = leaf(in.k), v = leaf(in.v), bias = leaf(in.bias);
  const Tensor out = attention(q, k, v, bias, std::nullopt, pattern_of(in, 0), 0.3);
  const auto grads = torch::autograd::grad({out}, {q, k, v, bias}, {in.grad.to(type)});
  return {out.detach(), grads[0], grads[1], grads[2], grads[3]};
}

Results in_pieces(const Inputs& in, const std::vector<int64_t>& sizes) {
  const at::NoGradGuard no_grad;
  const AttentionPartial sum = empty_partial(in.q);
  const auto for_pieces = [&](const auto& f) {
    int64_t first = 0;
    for (const int64_t n : sizes) {
      f(first, n, in.k.narrow(1, first, n), in.v.narrow(1, first, n), in.bias.narrow(3, first, n));
      first += n;
    }
  };
  for_pieces([&](int64_t first, int64_t, const Tensor& k, const Tensor& v, const Tensor& bias) {
    merge_partials(sum, attention_partial(in.q, k, v, bias, std::nullopt, pattern_of(in, first), 0.3));
  });
  Results r{sum.out, at::zeros_like(sum.out), {}, {}, {}};
  std::vector<Tensor> dk, dv, dbias;
  for_pieces([&](int64_t first, int64_t, const Tensor& k, const Tensor& v, const Tensor& bias) {
    const auto g = attention_partial_backward(in.grad, sum, in.q, k, v, bias, std::nullopt,
                                              pattern_of(in, first), 0.3, {true, true, true, true, false});
    r.dq.add_(g[0]);
    dk.push_back(g[1]), dv.push_back(g[2]), dbias.push_back(g[3]);
    EXPECT_FALSE(g[4].defined());
  });
  r.dk = at::cat(dk, 1), r.dv = at::cat(dv, 1), r.dbias = at::cat(dbias, 3);
  return r;
}

const std::vector<std::vector<int64_t>> kCuts{{23}, {11, 12}, {1, 5, 0, 17}, {6, 6, 6, 5}, {22, 1}};

TEST(AttentionPartial, PiecesMergeToTheWhole) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    const Inputs in = make(type);
    const Results exact = whole(in, at::kDouble), one = whole(in, type);
    for (const std::vector<int64_t>& cut : kCuts) {
      const Results got = in_pieces(in, cut);
      const auto check = [&](const Tensor& t, const Tensor& same, const Tensor& truth, const char* what) {
        EXPECT_EQ(t.scalar_type(), type == at::kDouble ? at::kDouble : at::kFloat);
        // Sums of a dozen terms in another order; of 16-bit inputs the pieces are closer than the whole.
        const testing::Verdict v = testing::within_twice(t, same, truth, type == at::kDouble ? 40 : 4);
        EXPECT_TRUE(v.ok) << c10::toString(type) << " " << what << " " << cut.size() << ": " << v.text;
      };
      check(got.out, one.out, exact.out, "out");
      check(got.dq, one.dq, exact.dq, "dq");
      check(got.dk, one.dk, exact.dk, "dk");
      check(got.dv, one.dv, exact.dv, "dv");
      check(got.dbias, one.dbias, exact.dbias, "dbias");
    }
  }
}

// 2^k pieces in fp32 are as exact as one: the error does not grow with their number.
TEST(AttentionPartial, ErrorDoesNotGrowWithTheNumberOfPieces) {
  const Inputs in = make(at::kBFloat16);
  const Tensor exact = whole(in, at::kDouble).out;
  const double one = testing::relative_l2(in_pieces(in, {23}).out, exact);
  const double many = testing::relative_l2(in_pieces(in, std::vector<int64_t>(23, 1)).out, exact);
  EXPECT_LE(many, 4 * one + 4 * 0x1p-24);
  EXPECT_LE(many, 1e-6);
}

// Of sums that are rounded to fp16 after every merge it does: what the limit above is there to catch.
TEST(AttentionPartial, RoundedSumsWouldBeCaught) {
  const Inputs in = make(at::kBFloat16);
  const Tensor exact = whole(in, at::kDouble).out;
  const at::NoGradGuard no_grad;
  const auto error = [&](int64_t pieces) {
    const AttentionPartial sum = empty_partial(in.q);
    const int64_t n = kKeys / pieces;
    for (int64_t first = 0; first < kKeys; first += n) {
      const int64_t count = std::min(n, kKeys - first);
      merge_partials(
          sum, attention_partial(in.q, in.k.narrow(1, first, count), in.v.narrow(1, first, count),
                                 in.bias.narrow(3, first, count), std::nullopt, pattern_of(in, first), 0.3));
      sum.out.copy_(sum.out.to(at::kHalf));
    }
    return testing::relative_l2(sum.out, exact);
  };
  EXPECT_GT(error(1), 1e-4);
  EXPECT_GT(error(23), 1.5 * error(1));  // and it grows with the pieces
}

TEST(AttentionPartial, RowsThatSeeNothingAddNothing) {
  const at::NoGradGuard no_grad;
  Inputs in = make(at::kDouble);
  AttentionPattern nothing = pattern_of(in, 0);
  nothing.key_end = at::zeros({1}, at::kLong);
  const AttentionPartial none = attention_partial(in.q, in.k, in.v, std::nullopt, std::nullopt, nothing, 1);
  EXPECT_TRUE(at::equal(none.out, at::zeros_like(none.out)));
  EXPECT_TRUE(at::equal(none.statistics, empty_partial(in.q).statistics));
  const AttentionPartial sum =
      attention_partial(in.q, in.k, in.v, std::nullopt, std::nullopt, pattern_of(in, 0), 1);
  const AttentionPartial kept{sum.out.clone(), sum.statistics.clone()};
  merge_partials(sum, none);
  EXPECT_TRUE(at::equal(sum.out, kept.out) && at::equal(sum.statistics, kept.statistics));
  merge_partials(none, sum);  // and the other way: the bits of what it saw
  EXPECT_TRUE(at::equal(none.out, kept.out) && at::equal(none.statistics, kept.statistics));
}

TEST(AttentionPartial, MetaHasTheShapesOfCpu) {
  const at::NoGradGuard no_grad;
  const Inputs in = make(at::kBFloat16);
  const auto meta = [](const Tensor& t) { return t.to(at::kMeta); };
  const AttentionPartial sum = empty_partial(meta(in.q));
  const AttentionPartial piece =
      attention_partial(meta(in.q), meta(in.k), meta(in.v), meta(in.bias), std::nullopt, {}, 1);
  merge_partials(sum, piece);
  EXPECT_EQ(piece.out.scalar_type(), at::kFloat);
  EXPECT_EQ(piece.out.sizes(), in.q.sizes());
  EXPECT_EQ(piece.statistics.sizes(), at::IntArrayRef({kRows, kHeads, kQueries, 2}));
  const auto grads = attention_partial_backward(meta(in.grad), sum, meta(in.q), meta(in.k), meta(in.v),
                                                meta(in.bias), std::nullopt, {}, 1, {true, true, true, true});
  EXPECT_EQ(grads[1].sizes(), in.k.sizes());
  EXPECT_EQ(grads[1].scalar_type(), at::kFloat);
  EXPECT_EQ(grads[3].sizes(), in.bias.sizes());
}

TEST(AttentionPartial, RefusesGradientsAndWhatDoesNotFit) {
  Inputs in = make(at::kDouble);
  in.q.requires_grad_();
  const auto call = [&] {
    return attention_partial(in.q, in.k, in.v, std::nullopt, std::nullopt, pattern_of(in, 0), 1);
  };
  EXPECT_THROW(call(), c10::ValueError);
  const at::NoGradGuard no_grad;
  const AttentionPartial piece = call();
  const AttentionPartial other{piece.out.narrow(1, 0, 3), piece.statistics.narrow(2, 0, 3)};
  EXPECT_THROW(merge_partials(piece, other), c10::ValueError);
  EXPECT_THROW(merge_partials(piece, {piece.out.to(at::kFloat), piece.statistics}), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
