// SPDX-License-Identifier: Apache-2.0
// Packed segments and key/value caches against dense masked softmax.
#include "axial/ops/attention/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

namespace axial::ops {
namespace {

using at::Tensor;

struct Case {
  std::vector<int64_t> segments;
  int64_t heads, groups, width;
  bool alibi;
};

const std::vector<Case> kCases{{{0, 0}, 2, 1, 4, false},
                               {{0, 1}, 1, 1, 1, false},
                               {{0, 5, 5, 12, 13}, 4, 2, 8, true},
                               {{0, 300}, 2, 2, 16, false},
                               {{0, 129, 300, 301}, 6, 3, 5, true},
                               {{0, 40, 80, 120, 160, 200}, 3, 1, 64, false}};

struct Inputs {
  Tensor q, k, v, segments, grad;
  std::optional<Tensor> slopes;
};

// q, k and v are strided views of one fused buffer, as a fused projection makes them.
Inputs make(const Case& c, at::ScalarType type) {
  const int64_t tokens = c.segments.back();
  at::manual_seed(11);
  const Tensor fused = at::randn({tokens, c.heads + 2 * c.groups, c.width}, at::kDouble).to(type);
  Inputs in;
  in.q = fused.narrow(1, 0, c.heads);
  in.k = fused.narrow(1, c.heads, c.groups);
  in.v = fused.narrow(1, c.heads + c.groups, c.groups);
  in.grad = at::randn({tokens, c.heads, c.width}, at::kDouble).to(type);
  in.segments = at::tensor(c.segments, at::kLong);
  if (c.alibi) in.slopes = at::pow(2.0, -at::arange(1, c.heads + 1, at::kFloat));
  return in;
}

// Dense masked softmax over all tokens in the dtype of q.
Tensor reference(const Tensor& q, const Tensor& k, const Tensor& v, const Inputs& in) {
  const int64_t tokens = q.size(0), repeat = q.size(1) / k.size(1);
  const Tensor index = at::arange(tokens, at::kLong);
  const Tensor owner = at::searchsorted(in.segments, index, false, true);
  const Tensor distance = index.unsqueeze(0) - index.unsqueeze(1);
  const Tensor hidden = (owner.unsqueeze(0) != owner.unsqueeze(1)).logical_or(distance > 0);
  const Tensor keys = k.repeat_interleave(repeat, 1), values = v.repeat_interleave(repeat, 1);
  Tensor s = at::einsum("ihd,jhd->hij", {q, keys}) / std::sqrt(static_cast<double>(q.size(2)));
  if (in.slopes) s = s + in.slopes->to(q.scalar_type()).view({-1, 1, 1}) * distance.to(q.scalar_type());
  return at::einsum("hij,jhd->ihd", {at::softmax(s.masked_fill(hidden, -INFINITY), -1), values});
}

struct Results {
  Tensor out, gq, gk, gv;
};

template <class F>
Results differentiate(const Inputs& in, at::ScalarType type, F&& f) {
  const Tensor q = in.q.detach().to(type).requires_grad_(), k = in.k.detach().to(type).requires_grad_(),
               v = in.v.detach().to(type).requires_grad_();
  const Tensor out = f(q, k, v);
  const auto grads = torch::autograd::grad({out}, {q, k, v}, {in.grad.to(type)});
  return {out.detach(), grads[0], grads[1], grads[2]};
}

double error(const Tensor& a, const Tensor& exact) {
  return a.numel() == 0 ? 0.0 : (a.to(at::kDouble) - exact).abs().max().item<double>();
}

// Error <= 2x that of plain torch at the same precision, plus one rounding of the result.
void expect_close(const Tensor& got, const Tensor& plain, const Tensor& exact, double rounding,
                  const char* what) {
  const double limit =
      2 * error(plain, exact) + rounding * (exact.numel() ? exact.abs().max().item<double>() : 0.0);
  EXPECT_LE(error(got, exact), limit) << what;
}

TEST(SegmentAttention, ValuesAndGradientsInEveryDtype) {
  // The fp64 reference is itself rounded: both sides differ by the order of sums over 300 terms.
  const std::vector<std::pair<at::ScalarType, double>> types{
      {at::kDouble, 1e-14}, {at::kFloat, 0x1p-24}, {at::kBFloat16, 0x1p-9}, {at::kHalf, 0x1p-12}};
  for (const auto& [type, rounding] : types) {
    for (const Case& c : kCases) {
      const Inputs in = make(c, type);
      const auto plain = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
        return reference(q, k, v, in);
      };
      const Results exact = differentiate(in, at::kDouble, plain);
      const Results torch_like = differentiate(in, type, plain);
      const Results ours = differentiate(in, type, [&](const Tensor& q, const Tensor& k, const Tensor& v) {
        return segment_attention(q, k, v, in.segments, in.slopes, std::nullopt);
      });
      EXPECT_EQ(ours.out.scalar_type(), type);
      EXPECT_TRUE(ours.out.is_contiguous());
      expect_close(ours.out, torch_like.out, exact.out, rounding, "out");
      expect_close(ours.gq, torch_like.gq, exact.gq, rounding, "grad q");
      expect_close(ours.gk, torch_like.gk, exact.gk, rounding, "grad k");
      expect_close(ours.gv, torch_like.gv, exact.gv, rounding, "grad v");
    }
  }
}

TEST(SegmentAttention, BitwiseEqualForAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Inputs in = make(kCases[4], type);
    std::optional<Results> first;
    for (const int threads : {1, 2, 3, 5, 2}) {
      at::set_num_threads(threads);
      const Results now = differentiate(in, type, [&](const Tensor& q, const Tensor& k, const Tensor& v) {
        return segment_attention(q, k, v, in.segments, in.slopes, 0.3);
      });
      if (!first) first = now;
      EXPECT_TRUE(at::equal(now.out, first->out) && at::equal(now.gq, first->gq) &&
                  at::equal(now.gk, first->gk) && at::equal(now.gv, first->gv))
          << threads;
    }
  }
  at::set_num_threads(before);
}

TEST(SegmentAttention, MetaHasTheShapesOfCpu) {
  const Inputs in = make(kCases[2], at::kBFloat16);
  const auto meta = [](const Tensor& t) {
    return t.to(at::kMeta).detach().requires_grad_(t.is_floating_point());
  };
  const Tensor q = meta(in.q), k = meta(in.k), v = meta(in.v);
  const Tensor out = segment_attention(q, k, v, meta(in.segments), std::nullopt, std::nullopt);
  EXPECT_EQ(out.sizes(), in.q.sizes());
  EXPECT_TRUE(out.is_meta());
  const auto grads = torch::autograd::grad({out}, {q, k, v}, {at::empty_like(out)});
  EXPECT_EQ(grads[1].sizes(), in.k.sizes());
}

TEST(SegmentAttention, RefusesSecondOrder) {
  const Inputs in = make(kCases[2], at::kDouble);
  const Tensor q = in.q.detach().clone().requires_grad_();
  const Tensor out = segment_attention(q, in.k, in.v, in.segments, std::nullopt, std::nullopt);
  EXPECT_THROW(torch::autograd::grad({out.sum()}, {q}, {}, std::nullopt, /*create_graph=*/true), c10::Error);
}

TEST(SegmentAttention, RefusesWhatDoesNotFit) {
  const Tensor q = at::zeros({4, 2, 3}), k = at::zeros({4, 1, 3});
  const auto call = [](const Tensor& a, const Tensor& b, const Tensor& s) {
    return segment_attention(a, b, b, s, std::nullopt, std::nullopt);
  };
  const auto borders = [](const std::vector<int64_t>& b) { return at::tensor(b, at::kLong); };
  EXPECT_NO_THROW(call(q, k, borders({0, 4})));
  EXPECT_THROW(call(q, k, borders({0, 3})), c10::ValueError);
  EXPECT_THROW(call(q, k, borders({1, 4})), c10::ValueError);
  EXPECT_THROW(call(q, k, borders({0, 3, 2, 4})), c10::ValueError);
  EXPECT_THROW(call(q, at::zeros({3, 1, 3}), borders({0, 4})), c10::ValueError);
  EXPECT_THROW(call(at::zeros({4, 3, 3}), at::zeros({4, 2, 3}), borders({0, 4})), c10::ValueError);
  EXPECT_THROW(call(q.to(at::kInt), k.to(at::kInt), borders({0, 4})), c10::ValueError);
  EXPECT_THROW(segment_attention(q, k, k, borders({0, 4}), at::zeros({3}), std::nullopt), c10::ValueError);
}

TEST(CachedAttention, EqualsTheTailOfTheWholeSequence) {
  for (const bool alibi : {false, true}) {
    const Case c{{0, 23}, 6, 2, 8, alibi};
    const Inputs in = make(c, at::kDouble);
    const Tensor whole = segment_attention(in.q, in.k, in.v, in.segments, in.slopes, std::nullopt);
    Tensor k = at::zeros({2, 30, 2, 8}, at::kDouble), v = at::zeros_like(k);
    // Sequence 0 has 20 cached tokens and 3 new ones; sequence 1 starts with the same 3 from nothing.
    k[0].narrow(0, 0, 23).copy_(in.k);
    v[0].narrow(0, 0, 23).copy_(in.v);
    k[1].narrow(0, 0, 3).copy_(in.k.narrow(0, 0, 3));
    v[1].narrow(0, 0, 3).copy_(in.v.narrow(0, 0, 3));
    const Tensor q = at::stack({in.q.narrow(0, 20, 3), in.q.narrow(0, 0, 3)});
    const std::vector<int64_t> lengths{20, 0};
    const Tensor out = cached_attention(q, k, v, at::tensor(lengths, at::kLong), in.slopes, std::nullopt);
    EXPECT_LE(error(out[0], whole.narrow(0, 20, 3)), 1e-14);
    EXPECT_LE(error(out[1], whole.narrow(0, 0, 3)), 1e-14);
    const std::vector<int64_t> full{28, 0};
    EXPECT_THROW(cached_attention(q, k, v, at::tensor(full, at::kLong), in.slopes, std::nullopt),
                 c10::ValueError);
  }
}

}  // namespace
}  // namespace axial::ops
