// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/embedding/embedding.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/testing/op_case/op_case.h"

namespace axial::ops {
namespace {

using testing::OpInputs;
using testing::random_normal;
using testing::Tensors;

OpInputs inputs(int64_t rows, int64_t cols, std::vector<int64_t> shape) {
  const at::Tensor ids = at::arange(c10::multiply_integers(shape), at::kLong).mul_(7).remainder_(rows);
  std::vector<int64_t> out = shape;
  out.push_back(cols);
  return {fmt::format("V {} C {} ids {}", rows, cols, fmt::join(shape, "x")),
          {random_normal({rows, cols}, at::kDouble, "weight"), ids.view(shape),
           random_normal(out, at::kDouble, "factor")}};
}

// Times a factor, so that the gradient of weight depends on an input and second order is not empty.
TEST(EmbeddingOp, HoldsWhatEveryOpMustHold) {
  const testing::OpCase test{
      .name = "embedding",
      .inputs = {inputs(5, 3, {7}), inputs(3, 17, {2, 5}), inputs(9, 2, {0}), inputs(1, 1, {4}),
                 inputs(4, 5, {2, 1, 3})},
      .op = [](const Tensors& t) { return Tensors{ops::embedding(t[0], t[1]) * t[2]}; },
      .reference =
          [](const Tensors& t) {
            return Tensors{t[0].index_select(0, t[1].flatten()).view(t[2].sizes()) * t[2]};
          },
      .second_order = true,
      .terms = 2};  // products with the factor, near 2, round to 16 bits before their sum may cancel
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

TEST(EmbeddingOp, ASingleIdGivesARow) {
  const at::Tensor weight = random_normal({5, 3}, at::kFloat, "w");
  EXPECT_TRUE(at::equal(ops::embedding(weight, at::full({}, 2, at::kLong)), weight[2]));
}

TEST(EmbeddingOp, AGenomeBatchHasOneGradientForAnyThreads) {
  const at::Tensor weight = random_normal({69, 128}, at::kFloat, "w").requires_grad_();
  const at::Tensor ids = random_normal({2, 2048}, at::kFloat, "ids").mul(10).to(at::kLong).abs().remainder(4);
  const at::Tensor cotangent = random_normal({2, 2048, 128}, at::kFloat, "g");
  const auto gradient = [&](int threads) {
    at::set_num_threads(threads);
    weight.mutable_grad() = at::Tensor();
    (ops::embedding(weight, ids) * cotangent).sum().backward();
    return weight.grad().clone();
  };
  const int before = at::get_num_threads();
  const at::Tensor one = gradient(1);
  for (const int threads : {2, 5, 16}) EXPECT_TRUE(at::equal(gradient(threads), one)) << threads;
  at::set_num_threads(before);
  const at::Tensor exact = at::zeros({69, 128}, at::kDouble)
                               .index_add_(0, ids.flatten(), cotangent.to(at::kDouble).view({-1, 128}));
  // Up to a few thousand terms near 1 add up in fp32: each partial sum, near 100, rounds to 2^-24 of it.
  EXPECT_LT((one.to(at::kDouble) - exact).abs().max().item<double>(), 1e-3);
}

TEST(EmbeddingOp, NamesWhatIsWrong) {
  const at::Tensor weight = at::randn({4, 3});
  const at::Tensor ids = at::tensor({1, 4, 9}, at::kLong);
  EXPECT_THAT([&] { ops::embedding(weight, ids); },
              ::testing::ThrowsMessage<c10::ValueError>(
                  ::testing::HasSubstr("[embedding] id out of range at place 1; expected in [0, 4), got 4")));
  EXPECT_THROW(ops::embedding(weight, -ids), c10::ValueError);
  EXPECT_THROW(ops::embedding(weight, ids.to(at::kInt)), c10::ValueError);
  EXPECT_THROW(ops::embedding(weight[0], ids), c10::ValueError);
  EXPECT_THROW(ops::embedding(weight.to(at::kLong), ids), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
