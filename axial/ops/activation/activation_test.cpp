// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/activation/activation.h"

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

constexpr Activation kKinds[] = {Activation::kGeluErf, Activation::kGeluTanh, Activation::kSilu,
                                 Activation::kRelu};

at::Tensor plain(const at::Tensor& x, Activation kind) {
  switch (kind) {
    case Activation::kGeluErf:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kSilu:
      return at::silu(x);
    default:
      return at::relu(x);
  }
}

std::string label(const std::vector<int64_t>& shape, bool bias) {
  return fmt::format("{}{}", fmt::join(shape, "x"), bias ? "" : " no bias");
}

OpInputs inputs(std::vector<int64_t> shape, bool bias) {
  return {label(shape, bias),
          {random_normal(shape, at::kDouble, "x").mul_(2),
           bias ? random_normal({shape.back()}, at::kDouble, "bias") : at::Tensor()}};
}

TEST(Activation, HoldsWhatEveryOpMustHold) {
  for (const Activation kind : kKinds) {
    const testing::OpCase test{
        .name = fmt::format("activation {}", static_cast<int>(kind)),
        .inputs = {inputs({3, 17}, true), inputs({2, 3, 5}, false), inputs({1, 1}, true),
                   inputs({0, 4}, true), inputs({6}, true), inputs({70, 3}, true)},
        .op =
            [kind](const Tensors& t) {
              return Tensors{activation(t[0], t[1].defined() ? std::optional(t[1]) : std::nullopt, kind)};
            },
        .reference =
            [kind](const Tensors& t) { return Tensors{plain(t[1].defined() ? t[0] + t[1] : t[0], kind)}; },
        .terms = 1};  // slopes are sums of terms up to 1 that may cancel
    for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
  }
}

TEST(Activation, GatedHoldsWhatEveryOpMustHold) {
  for (const Activation kind : kKinds) {
    std::vector<OpInputs> sizes;
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{3, 34}, {2, 3, 10}, {1, 2}, {0, 4}, {6}, {70, 6}}) {
      sizes.push_back({label(shape, true), {random_normal(shape, at::kDouble, "gate_up").mul_(2)}});
    }
    const testing::OpCase test{
        .name = fmt::format("gated_activation {}", static_cast<int>(kind)),
        .inputs = sizes,
        .op = [kind](const Tensors& t) { return Tensors{gated_activation(t[0], kind)}; },
        .reference =
            [kind](const Tensors& t) {
              const int64_t width = t[0].size(-1) / 2;
              return Tensors{plain(t[0].narrow(-1, 0, width), kind) * t[0].narrow(-1, width, width)};
            },
        .roundings = 4,  // slope, gate, up and incoming gradient are multiplied
        .terms = 1};
    for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
  }
}

TEST(Activation, BiasAloneMayTakeAGradient) {
  const at::Tensor x = random_normal({4, 8}, at::kFloat, "x");
  const at::Tensor bias = random_normal({8}, at::kFloat, "b").requires_grad_();
  activation(x, bias, Activation::kSilu).sum().backward();
  const at::Tensor same = bias.detach().requires_grad_();
  at::silu(x + same).sum().backward();
  EXPECT_TRUE(at::allclose(bias.grad(), same.grad(), 1e-5, 1e-6));
  EXPECT_FALSE(x.grad().defined());
}

TEST(Activation, NamesWhatIsWrong) {
  EXPECT_THAT(
      [] {
        activation(at::randn({2, 4}), at::randn({3}), Activation::kRelu);
      },
      ::testing::ThrowsMessage<c10::ValueError>(
          ::testing::HasSubstr("[activation] bias does not match x [2, 4]; expected [4], got [3]")));
  EXPECT_THAT(
      [] {
        gated_activation(at::randn({2, 5}), Activation::kSilu);
      },
      ::testing::ThrowsMessage<c10::ValueError>(::testing::HasSubstr("expected [.., 2F], got [2, 5]")));
  EXPECT_THROW(activation(at::ones({2}, at::kLong), std::nullopt, Activation::kRelu), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
