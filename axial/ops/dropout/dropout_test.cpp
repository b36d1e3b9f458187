// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/dropout/dropout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace axial::ops {
namespace {

using at::Tensor;

struct Inputs {
  Tensor x = at::randn({3, 5, 20}, at::kDouble);
  Tensor ids = at::arange(3, at::kLong);
  Tensor positions = at::arange(5, at::kLong);
  RngKey key = root_key(3);
};

TEST(DropoutOp, GradientIsTheSameMask) {
  const Inputs in;
  const Tensor x = in.x.clone().requires_grad_();
  const Tensor y = dropout(x, 0.4, in.key, in.ids, in.positions);
  const Tensor mask = dropout(at::ones_like(in.x), 0.4, in.key, in.ids, in.positions);
  EXPECT_TRUE(at::allclose(y, in.x * mask));
  const Tensor weights = at::randn_like(in.x);
  EXPECT_TRUE(at::allclose(torch::autograd::grad({y}, {x}, {weights})[0], weights * mask));
}

TEST(DropoutOp, SecondOrderIsRight) {
  const Inputs in;
  const Tensor x = in.x.clone().requires_grad_();
  const Tensor y = dropout(x, 0.4, in.key, in.ids, in.positions).pow(3).sum();
  const Tensor first = torch::autograd::grad({y}, {x}, {}, std::nullopt, /*create_graph=*/true)[0];
  const Tensor second = torch::autograd::grad({first.sum()}, {x})[0];
  const Tensor mask = dropout(at::ones_like(in.x), 0.4, in.key, in.ids, in.positions);
  EXPECT_TRUE(at::allclose(second, 6 * in.x * mask.pow(3)));
}

TEST(DropoutOp, StridesDtypesAndMeta) {
  const Inputs in;
  const Tensor y = dropout(in.x, 0.5, in.key, in.ids, in.positions);
  const Tensor strided = in.x.permute({2, 0, 1}).contiguous().permute({1, 2, 0});
  EXPECT_TRUE(at::equal(dropout(strided, 0.5, in.key, in.ids, in.positions), y));
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const Tensor narrow = dropout(in.x.to(type), 0.5, in.key, in.ids, in.positions);
    EXPECT_EQ(narrow.scalar_type(), type);
    EXPECT_TRUE(at::equal(narrow != 0, y != 0));
  }
  const Tensor meta =
      dropout(in.x.to(at::kMeta), 0.5, in.key, in.ids.to(at::kMeta), in.positions.to(at::kMeta));
  EXPECT_EQ(meta.sizes(), in.x.sizes());
}

TEST(DropoutOp, RefusesWhatDoesNotFit) {
  const Inputs in;
  EXPECT_THROW(dropout(in.x[0], 0.5, in.key, in.ids, in.positions), c10::ValueError);
  EXPECT_THROW(dropout(in.x, 1.5, in.key, in.ids, in.positions), c10::ValueError);
  EXPECT_THROW(dropout(in.x, 0.5, in.key, in.positions, in.positions), c10::ValueError);
  EXPECT_THROW(dropout(in.x, 0.5, in.key, in.ids, in.ids), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
