// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/linear/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/core/check/check.h"
#include "axial/testing/op_case/op_case.h"

namespace axial::ops {
namespace {

using testing::OpInputs;
using testing::random_normal;
using testing::Tensors;

constexpr bool kNone = false, kGiven = true;

OpInputs inputs(const std::vector<int64_t>& leading, int64_t in, int64_t out, bool bias, bool residual) {
  std::vector<int64_t> x = leading, y = leading;
  x.push_back(in), y.push_back(out);
  return {fmt::format("{} to {}{}{}", fmt::join(x, "x"), out, bias ? " bias" : "", residual ? " sum" : ""),
          {random_normal(x, at::kDouble, "x"), random_normal({out, in}, at::kDouble, "weight"),
           bias ? random_normal({out}, at::kDouble, "bias") : at::Tensor(),
           residual ? random_normal(y, at::kDouble, "residual") : at::Tensor()}};
}

std::optional<at::Tensor> given(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

at::Tensor plain(const Tensors& t) {
  at::Tensor y = at::matmul(t[0], t[1].t());
  if (t[2].defined()) y = y + t[2];
  return t[3].defined() ? y + t[3] : y;
}

TEST(Linear, HoldsWhatEveryOpMustHold) {
  const testing::OpCase test{
      .name = "linear",
      .inputs = {inputs({3}, 5, 2, kGiven, kGiven), inputs({2, 3}, 4, 3, kNone, kGiven),
                 inputs({2, 3}, 4, 3, kGiven, kNone), inputs({1}, 1, 1, kNone, kNone),
                 inputs({0}, 4, 3, kGiven, kGiven), inputs({}, 4, 3, kGiven, kGiven)},
      .op = [](const Tensors& t) { return Tensors{linear(t[0], t[1], given(t[2]), given(t[3]))}; },
      .reference = [](const Tensors& t) { return Tensors{plain(t)}; },
      .second_order = true,
      .terms = 4};
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

// Sizes that go to oneDNN: odd ones, strided ones, and every combination of what is added.
struct Large {
  OpInputs values;
  Tensors cast(at::ScalarType type) const {
    Tensors out;
    for (const at::Tensor& t : values.tensors) {
      out.push_back(t.defined() ? t.to(type).detach().requires_grad_() : at::Tensor());
    }
    return out;
  }
};

Tensors with_gradients(const Tensors& leaves, const at::Tensor& y, const at::Tensor& grad) {
  Tensors given_leaves;
  for (const at::Tensor& t : leaves) {
    if (t.defined()) given_leaves.push_back(t);
  }
  Tensors out = torch::autograd::grad({y}, given_leaves, {grad.to(y.scalar_type())});
  out.push_back(y.detach());
  return out;
}

double error(const at::Tensor& a, const at::Tensor& exact) {
  return (a.to(at::kDouble) - exact).abs().max().item<double>();
}

TEST(Linear, LargeSizesAreAsExactAsTorch) {
  for (const OpInputs& values :
       {inputs({257}, 129, 131, kGiven, kGiven), inputs({3, 211}, 67, 101, kNone, kGiven),
        inputs({700}, 64, 69, kGiven, kNone), inputs({512}, 96, 96, kNone, kNone)}) {
    const Large large{values};
    const Tensors exact_leaves = large.cast(at::kDouble), torch_leaves = large.cast(at::kFloat),
                  our_leaves = large.cast(at::kFloat);
    const at::Tensor exact_y = plain(exact_leaves);
    const at::Tensor grad = random_normal(exact_y.sizes().vec(), at::kDouble, "grad");
    const Tensors exact = with_gradients(exact_leaves, exact_y, grad);
    const Tensors torch_like = with_gradients(torch_leaves, plain(torch_leaves), grad);
    const auto ours_of = [&] {
      return with_gradients(
          our_leaves, linear(our_leaves[0], our_leaves[1], given(our_leaves[2]), given(our_leaves[3])), grad);
    };
    const Tensors ours = ours_of();
    for (size_t i = 0; i < exact.size(); ++i) {
      const double rounding = 0x1p-23 * exact[i].abs().max().item<double>();
      EXPECT_LE(error(ours[i], exact[i]), 2 * error(torch_like[i], exact[i]) + rounding)
          << values.label << " tensor " << i;
    }
    const int before = at::get_num_threads();
    for (const int threads : {1, 2, 3, 5}) {
      at::set_num_threads(threads);
      const Tensors again = ours_of();
      for (size_t i = 0; i < ours.size(); ++i) {
        if (i == 1) continue;  // the weight's gradient comes from torch's BLAS, which promises nothing
        EXPECT_TRUE(at::equal(again[i], ours[i]))
            << values.label << " tensor " << i << " threads " << threads;
      }
    }
    at::set_num_threads(before);
  }
}

TEST(Linear, LargeStridedInputsGiveTheSameBits) {
  const at::Tensor x = random_normal({300, 130}, at::kFloat, "x"),
                   w = random_normal({140, 130}, at::kFloat, "w"), b = random_normal({140}, at::kFloat, "b"),
                   r = random_normal({300, 140}, at::kFloat, "r");
  const auto padded = [](const at::Tensor& t) {
    return at::constant_pad_nd(t, {1, 2}).narrow(-1, 1, t.size(-1));
  };
  const auto turned = [](const at::Tensor& t) { return t.t().contiguous().t(); };
  const at::Tensor y = linear(x, w, b, r);
  EXPECT_TRUE(at::equal(linear(padded(x), padded(w), padded(b), padded(r)), y));
  EXPECT_TRUE(at::equal(linear(turned(x), w, b, turned(r)), y));
  EXPECT_TRUE(at::allclose(linear(x, turned(w), b, r), y, 1e-5, 1e-5));
  EXPECT_TRUE(y.is_contiguous());
}

TEST(Linear, LeavesItsResidualAlone) {
  const at::Tensor x = random_normal({128, 128}, at::kFloat, "x"),
                   r = random_normal({128, 128}, at::kFloat, "r");
  const at::Tensor before = r.clone();
  const at::Tensor y = linear(x, x, std::nullopt, r);
  EXPECT_TRUE(at::equal(r, before));
  EXPECT_FALSE(y.is_alias_of(r));
}

TEST(Linear, NamesWhatIsWrong) {
  const at::Tensor x = at::randn({2, 4}), w = at::randn({3, 4});
  EXPECT_THAT([&] { ops::linear(x, w.t()); },
              ::testing::ThrowsMessage<c10::ValueError>(::testing::HasSubstr(
                  "[linear] x and weight do not fit; expected [.., I] and [O, I], got [2, 4] and [4, 3]")));
  EXPECT_THROW(ops::linear(x, w, at::randn({4})), c10::ValueError);
  EXPECT_THROW(ops::linear(x, w, std::nullopt, at::randn({1, 3})), c10::ValueError);
  EXPECT_THROW(ops::linear(x, w.to(at::kDouble)), c10::ValueError);
  EXPECT_THROW(ops::linear(x.to(at::kLong), w.to(at::kLong)), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
