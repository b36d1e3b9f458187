// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/rotary/rotary.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/testing/op_case/op_case.h"

namespace axial::ops {
namespace {

using testing::OpInputs;
using testing::random_normal;
using testing::Tensors;

at::Tensor frequencies(int64_t pairs) {
  return at::pow(
      10000.0, at::arange(pairs, at::kDouble).neg_().div_(static_cast<double>(std::max<int64_t>(pairs, 1))));
}

OpInputs inputs(std::vector<int64_t> shape, int64_t pairs) {
  const std::vector<int64_t> leading(shape.begin(), shape.end() - 2);
  const at::Tensor positions = at::arange(c10::multiply_integers(leading), at::kLong).mul_(37).sub_(50);
  return {fmt::format("{} with {} pairs", fmt::join(shape, "x"), pairs),
          {random_normal(shape, at::kDouble, "x"), positions.view(leading), frequencies(pairs),
           random_normal(shape, at::kDouble, "factor")}};
}

// The textbook form: x cos + rotate_half(x) sin over the first R entries.
at::Tensor textbook(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq) {
  const int64_t rotated = 2 * inv_freq.size(0);
  const at::Tensor angle = positions.to(at::kDouble).unsqueeze(-1) * inv_freq;
  const at::Tensor angles = at::cat({angle, angle}, -1).unsqueeze(-2);
  const at::Tensor head = x.narrow(-1, 0, rotated);
  const auto halves = head.chunk(2, -1);
  const at::Tensor turned = rotated == 0 ? head : at::cat({-halves[1], halves[0]}, -1);
  const at::Tensor y = head * angles.cos().to(x.scalar_type()) + turned * angles.sin().to(x.scalar_type());
  return at::cat({y, x.narrow(-1, rotated, x.size(-1) - rotated)}, -1);
}

// Times a factor, so that the gradient of x depends on an input and second order is not empty.
TEST(RotaryOp, HoldsWhatEveryOpMustHold) {
  const testing::OpCase test{
      .name = "rotary",
      .inputs = {inputs({5, 2, 8}, 4), inputs({2, 3, 1, 7}, 2), inputs({3, 2, 4}, 0), inputs({0, 2, 4}, 2),
                 inputs({2, 2, 2, 1, 6}, 3), inputs({1, 1, 37}, 18)},
      .op = [](const Tensors& t) { return Tensors{rotary(t[0], t[1], t[2]) * t[3]}; },
      .reference = [](const Tensors& t) { return Tensors{textbook(t[0], t[1], t[2]) * t[3]}; },
      .constants = {2},
      .keep_dtype = {2},
      .second_order = true};
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

TEST(RotaryOp, ReadsViewsOfAFusedProjection) {
  const at::Tensor fused = random_normal({6, 3, 4, 16}, at::kFloat, "qkv");  // [T, {q, k, v}, H, D]
  const at::Tensor positions = at::arange(6, at::kLong), inv_freq = frequencies(5);
  for (const int64_t part : {0, 1}) {
    const at::Tensor view = fused.select(1, part);
    const at::Tensor y = rotary(view, positions, inv_freq);
    EXPECT_TRUE(y.is_contiguous());
    EXPECT_TRUE(at::equal(y, rotary(view.contiguous(), positions, inv_freq)));
  }
}

TEST(RotaryOp, ProductsDependOnDistancesAlone) {
  const at::Tensor q = random_normal({1, 1, 32}, at::kDouble, "q"),
                   k = random_normal({1, 1, 32}, at::kDouble, "k");
  const auto product = [&](int64_t m, int64_t n) {
    const at::Tensor inv_freq = frequencies(16);
    const auto at_position = [](int64_t p) { return at::full({1}, p, at::kLong); };
    return (rotary(q, at_position(m), inv_freq) * rotary(k, at_position(n), inv_freq)).sum().item<double>();
  };
  EXPECT_NEAR(product(7, 3), product(1004, 1000), 1e-11);  // angles near 1000 carry 1e-13 of rounding
  EXPECT_GT(std::abs(product(7, 3) - product(7, 4)), 1e-3);
}

TEST(RotaryOp, NamesWhatIsWrong) {
  const at::Tensor x = at::randn({4, 2, 8}), positions = at::arange(4, at::kLong), inv_freq = frequencies(4);
  EXPECT_THAT(
      [&] { rotary(x, positions, frequencies(5)); },
      ::testing::ThrowsMessage<c10::ValueError>(::testing::HasSubstr(
          "[rotary] more entries to rotate than the head has; expected 2 * len(inv_freq) <= 8, got 2 * 5")));
  EXPECT_THAT([&] { rotary(x, at::arange(3, at::kLong), inv_freq); },
              ::testing::ThrowsMessage<c10::ValueError>(::testing::HasSubstr("expected its leading dims")));
  EXPECT_THROW(rotary(x, positions.to(at::kInt), inv_freq), c10::ValueError);
  EXPECT_THROW(rotary(x, positions, inv_freq.to(at::kFloat)), c10::ValueError);
  EXPECT_THROW(rotary(x[0], positions, inv_freq), c10::ValueError);
  EXPECT_THROW(rotary(x.to(at::kLong), positions, inv_freq), c10::ValueError);
  EXPECT_THROW(rotary(x, positions, inv_freq / 0), c10::ValueError);
  EXPECT_THROW(rotary(x, positions, inv_freq.clone().requires_grad_()), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
