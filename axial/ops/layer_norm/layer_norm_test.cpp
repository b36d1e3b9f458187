// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/layer_norm/layer_norm.h"

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

std::optional<at::Tensor> optional(const at::Tensor& t) {
  return t.defined() ? std::optional(t) : std::nullopt;
}

OpInputs inputs(std::vector<int64_t> shape, bool bias) {
  const int64_t cols = shape.back();
  return {fmt::format("{}{}", fmt::join(shape, "x"), bias ? "" : " no bias"),
          {random_normal(shape, at::kDouble, "x").mul_(2).add_(0.5),
           random_normal({cols}, at::kDouble, "weight").add_(1),
           bias ? random_normal({cols}, at::kDouble, "bias") : at::Tensor()}};
}

TEST(LayerNorm, HoldsWhatEveryOpMustHold) {
  const testing::OpCase test{
      .name = "layer_norm",
      .inputs = {inputs({3, 17}, true), inputs({2, 3, 5}, false), inputs({1, 2}, true), inputs({0, 4}, true),
                 inputs({6}, true), inputs({70, 3}, true)},
      .op = [](const Tensors& t) { return Tensors{layer_norm(t[0], t[1], optional(t[2]), 1e-5)}; },
      .reference =
          [](const Tensors& t) {
            const at::Tensor centred = t[0] - t[0].mean(-1, true);
            const at::Tensor y = centred / (centred.pow(2).mean(-1, true) + 1e-5).sqrt() * t[1];
            return Tensors{t[2].defined() ? y + t[2] : y};
          },
      .terms = 1};  // with two columns the gradient of x is a difference of terms near 1
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

TEST(LayerNorm, EqualsTorch) {
  const at::Tensor x = random_normal({33, 512}, at::kFloat, "x");
  const at::Tensor weight = random_normal({512}, at::kFloat, "w"),
                   bias = random_normal({512}, at::kFloat, "b");
  EXPECT_TRUE(at::allclose(layer_norm(x, weight, bias, 1e-5), at::layer_norm(x, {512}, weight, bias, 1e-5),
                           1e-5, 1e-6));
}

TEST(LayerNorm, ComputesOnlyTheGradientsThatAreWanted) {
  const at::Tensor x = random_normal({4, 8}, at::kFloat, "x");
  const at::Tensor weight = random_normal({8}, at::kFloat, "w").requires_grad_();
  layer_norm(x, weight, std::nullopt, 1e-5).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST(LayerNorm, NamesWhatIsWrong) {
  const at::Tensor x = at::randn({2, 4});
  EXPECT_THAT([&] { layer_norm(x, at::randn({3}), std::nullopt, 1e-5); },
              ::testing::ThrowsMessage<c10::ValueError>(::testing::HasSubstr(
                  "[layer_norm] weight or bias does not match x [2, 4]; expected [4], got [3]")));
  EXPECT_THROW(layer_norm(x, at::randn({4}, at::kDouble), std::nullopt, 1e-5), c10::ValueError);
  EXPECT_THROW(layer_norm(at::randn({2, 0}), at::randn({0}), std::nullopt, 1e-5), c10::ValueError);
  EXPECT_THROW(layer_norm(at::ones({2, 4}, at::kLong), at::ones({4}, at::kLong), std::nullopt, 1e-5),
               c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
