// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/cross_entropy/cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace axial::ops {
namespace {

using at::Tensor;

Tensor some_labels(int64_t batch, int64_t length, int64_t vocab) {
  Tensor labels = at::randint(0, vocab, {batch, length}, at::kLong);
  labels.select(1, 1).fill_(kIgnoreLabel);
  return labels;
}

Tensor plain(const Tensor& logits, const Tensor& labels) {
  return at::cross_entropy_loss(logits.flatten(0, 1), labels.flatten(), {}, at::Reduction::Sum, kIgnoreLabel);
}

TEST(CrossEntropyOp, EqualsTorchInValueAndGradient) {
  at::manual_seed(2);
  for (const auto& [type, tolerance] : {std::pair{at::kDouble, 1e-12}, std::pair{at::kFloat, 2e-5}}) {
    const Tensor logits = at::randn({3, 5, 69}, type).requires_grad_();
    const Tensor labels = some_labels(3, 5, 69);
    const LossSum loss = cross_entropy(logits, labels);
    const Tensor expected = plain(logits, labels);
    EXPECT_NEAR(loss.sum.item<double>(), expected.item<double>(), tolerance * 50);
    EXPECT_EQ(loss.weight.item<double>(), 12);
    EXPECT_FALSE(loss.weight.requires_grad());
    const Tensor got = torch::autograd::grad({loss.sum * 0.5}, {logits})[0];
    const Tensor want = torch::autograd::grad({expected * 0.5}, {logits})[0];
    EXPECT_TRUE(at::allclose(got, want, tolerance, tolerance));
    EXPECT_TRUE(at::allclose(token_log_likelihood(logits, labels).sum(), -loss.sum, tolerance, tolerance));
  }
}

TEST(CrossEntropyOp, LogSumExpEqualsTorch) {
  const Tensor logits = at::randn({3, 5, 69}, at::kDouble);
  EXPECT_TRUE(at::allclose(log_sum_exp(logits), logits.logsumexp({2}), 1e-13, 1e-13));
  EXPECT_EQ(log_sum_exp(logits.to(at::kBFloat16)).scalar_type(), at::kFloat);
  EXPECT_EQ(log_sum_exp(at::zeros({0, 7})).sizes(), at::IntArrayRef({0}));
  EXPECT_EQ(log_sum_exp(at::empty({4, 7}, at::TensorOptions().device(at::kMeta))).sizes(),
            at::IntArrayRef({4}));
}

TEST(CrossEntropyOp, StridedLogitsEmptyRowsAndSixteenBits) {
  const Tensor wide = at::randn({4, 6, 40}, at::kDouble);
  const Tensor labels = some_labels(4, 6, 20);
  const Tensor view = wide.narrow(2, 3, 20);
  EXPECT_NEAR(cross_entropy(view, labels).sum.item<double>(),
              cross_entropy(view.contiguous(), labels).sum.item<double>(), 1e-12);
  const LossSum none = cross_entropy(at::zeros({0, 7}), at::zeros({0}, at::kLong));
  EXPECT_EQ(none.sum.item<double>(), 0);
  EXPECT_EQ(none.weight.item<double>(), 0);
  const Tensor low = view.to(at::kBFloat16).detach().requires_grad_();
  const LossSum loss = cross_entropy(low, labels);
  EXPECT_EQ(loss.sum.scalar_type(), at::kFloat);
  EXPECT_NEAR(loss.sum.item<double>(), plain(low.to(at::kDouble), labels).item<double>(), 1e-3);
  EXPECT_EQ(torch::autograd::grad({loss.sum}, {low})[0].scalar_type(), at::kBFloat16);
}

TEST(CrossEntropyOp, Meta) {
  const Tensor logits = at::empty({2, 3, 9}, at::TensorOptions().device(at::kMeta)).requires_grad_();
  const Tensor labels = at::empty({2, 3}, at::TensorOptions().device(at::kMeta).dtype(at::kLong));
  const LossSum loss = cross_entropy(logits, labels);
  EXPECT_EQ(torch::autograd::grad({loss.sum}, {logits})[0].sizes(), logits.sizes());
  EXPECT_EQ(token_log_likelihood(logits, labels).sizes(), labels.sizes());
}

TEST(CrossEntropyOp, RefusesBadLabelsAndSecondOrder) {
  const Tensor logits = at::zeros({2, 3}).requires_grad_();
  EXPECT_THROW(cross_entropy(logits, at::full({2}, 3, at::kLong)), c10::ValueError);
  EXPECT_THROW(cross_entropy(logits, at::full({2}, -1, at::kLong)), c10::ValueError);
  EXPECT_THROW(cross_entropy(logits, at::zeros({3}, at::kLong)), c10::ValueError);
  EXPECT_THROW(cross_entropy(logits, at::zeros({2}, at::kInt)), c10::ValueError);
  const LossSum loss = cross_entropy(logits, at::zeros({2}, at::kLong));
  EXPECT_THROW(torch::autograd::grad({loss.sum}, {logits}, {}, std::nullopt, /*create_graph=*/true),
               c10::Error);
}

}  // namespace
}  // namespace axial::ops
