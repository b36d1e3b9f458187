// SPDX-License-Identifier: Apache-2.0
// Operations of products by literal numbers, on the host and on Meta alike.
#include "axial/ops/common/flop_count.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/ops/linear/linear.h"

namespace axial::ops {
namespace {

at::Tensor tensor(const std::vector<int64_t>& sizes, at::DeviceType device,
                  at::ScalarType type = at::kFloat) {
  return at::zeros(sizes, at::TensorOptions(type).device(device));
}

class FlopCountOn : public ::testing::TestWithParam<at::DeviceType> {};

TEST_P(FlopCountOn, ProductsOfTorch) {
  const at::DeviceType on = GetParam();
  const auto count = [](const auto& f) {
    const FlopCount flops;
    f();
    EXPECT_EQ(flops.all().attention, 0);
    EXPECT_EQ(flops.recomputed(), Flops{});
    return flops.all().products;
  };
  const at::Tensor a = tensor({3, 4}, on), b = tensor({4, 5}, on), stack = tensor({2, 3, 4}, on);
  EXPECT_EQ(count([&] { at::mm(a, b); }), 2 * 3 * 4 * 5);
  EXPECT_EQ(count([&] { at::addmm(tensor({5}, on), a, b); }), 2 * 3 * 4 * 5);
  EXPECT_EQ(count([&] { at::bmm(stack, tensor({2, 4, 5}, on)); }), 2 * 2 * 3 * 4 * 5);
  EXPECT_EQ(count([&] { at::matmul(stack, b); }), 2 * 2 * 3 * 4 * 5);
  EXPECT_EQ(count([&] { at::linear(stack, tensor({6, 4}, on), tensor({6}, on)); }), 2 * 2 * 3 * 4 * 6);
  EXPECT_EQ(count([&] { at::mv(a, tensor({4}, on)); }), 2 * 3 * 4);
  EXPECT_EQ(count([&] { at::einsum("bij,jk->bik", {stack, b}); }), 2 * 2 * 3 * 4 * 5);
  EXPECT_EQ(count([&] { at::add(a, a).sum(); }), 0);
}

// Forward, and two products as large for its gradients; oneDNN's own op inside of ours is not counted again.
TEST_P(FlopCountOn, LinearAndItsGradients) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = tensor({2, 128, 64}, GetParam(), type).requires_grad_(),
                     weight = tensor({192, 64}, GetParam(), type).requires_grad_();
    const double one = 2.0 * 256 * 64 * 192;
    const FlopCount flops;
    const at::Tensor y = ops::linear(x, weight);
    EXPECT_EQ(flops.all().products, one);
    torch::autograd::grad({y}, {x, weight}, {at::ones_like(y)});
    EXPECT_EQ(flops.all().products, 3 * one);
    torch::autograd::grad({ops::linear(x.detach(), weight)}, {weight}, {at::ones_like(y)});
    EXPECT_EQ(flops.all().products, 5 * one);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, FlopCountOn, ::testing::Values(at::kCPU, at::kMeta),
                         [](const auto& info) { return info.param == at::kCPU ? "Host" : "Meta"; });

TEST(FlopCount, WhatIsComputedAgainIsKnown) {
  const at::Tensor a = tensor({2, 2}, at::kMeta);
  const FlopCount flops;
  at::mm(a, a);
  {
    const RecomputeScope again;
    at::mm(a, a);
    const RecomputeScope inner(false);  // of something that is itself computed again
    at::mm(a, a);
  }
  add_flops({.products = 5, .attention = 3, .attention_square = 4}, {.products = 1});
  EXPECT_EQ(flops.all(), (Flops{3 * 16 + 5, 3, 4}));
  EXPECT_EQ(flops.recomputed(), (Flops{2 * 16 + 1, 0, 0}));
}

TEST(FlopCount, TheInnermostCountTakesAll) {
  const at::Tensor a = tensor({2, 2}, at::kMeta);
  EXPECT_FALSE(counts_flops());
  const FlopCount outer;
  {
    const FlopCount inner;
    at::mm(a, a);
    EXPECT_EQ(inner.all().products, 16);
  }
  EXPECT_TRUE(counts_flops());
  EXPECT_EQ(outer.all().products, 0);
  at::mm(a, a);
  EXPECT_EQ(outer.all().products, 16);
}

}  // namespace
}  // namespace axial::ops
