// SPDX-License-Identifier: Apache-2.0
#include "axial/testing/gradcheck/gradcheck.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include "axial/core/check/check.h"

namespace axial::testing {
namespace {

// x^3 whose backward is wrong in one element.
struct WrongCube : torch::autograd::Function<WrongCube> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return x.pow(3);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    at::Tensor dx = 3 * ctx->get_saved_variables()[0].pow(2);
    dx.view({-1}).narrow(0, 2, 1).mul_(1.01);
    return {grads[0] * dx};
  }
};

at::Tensor input() { return random_normal({2, 3}, at::kDouble, "x").add_(4).requires_grad_(); }

TEST(Gradcheck, AcceptsRightGradients) {
  const at::Tensor y = random_normal({3, 2}, at::kDouble, "y").requires_grad_();
  const auto f = [](const Tensors& t) { return t[0].matmul(t[1]).tanh(); };
  EXPECT_TRUE(gradcheck(TensorFunction(f), {input(), y}).ok);
}

TEST(Gradcheck, NamesTheWrongElement) {
  const GradcheckReport report =
      gradcheck(TensorFunction([](const Tensors& t) { return WrongCube::apply(t[0]); }), {input()});
  EXPECT_FALSE(report.ok);
  EXPECT_EQ(report.input, 0);
  EXPECT_EQ(report.element, 2);
  EXPECT_NEAR(report.analytic / report.numeric, 1.01, 1e-6);
}

TEST(Gradcheck, ChecksSecondDerivatives) {
  const TensorsFunction cube = [](const Tensors& t) { return Tensors{t[0].pow(3)}; };
  EXPECT_TRUE(gradgradcheck(cube, {input()}).ok);
  // Detached: the gradient 3 x d^2 by x is found, its dependence through d is lost.
  const TensorsFunction lost = [](const Tensors& t) { return Tensors{t[0] * t[0].detach().pow(2)}; };
  EXPECT_FALSE(gradcheck(lost, {input()}).ok);
}

TEST(Gradcheck, RefusesWhenNothingNeedsAGradient) {
  EXPECT_THROW(gradcheck(TensorFunction([](const Tensors& t) { return t[0].detach(); }), {input()}),
               ValueError);
}

}  // namespace
}  // namespace axial::testing
