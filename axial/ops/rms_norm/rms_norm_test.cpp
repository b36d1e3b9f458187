// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/rms_norm/rms_norm.h"

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

OpInputs inputs(std::vector<int64_t> shape) {
  return {fmt::format("{}", fmt::join(shape, "x")),
          {random_normal(shape, at::kDouble, "x").mul_(2).add_(0.5),
           random_normal({shape.back()}, at::kDouble, "weight").add_(1)}};
}

TEST(RmsNorm, HoldsWhatEveryOpMustHold) {
  const testing::OpCase test{
      .name = "rms_norm",
      .inputs = {inputs({3, 17}), inputs({2, 3, 5}), inputs({1, 1}), inputs({0, 4}), inputs({6}),
                 inputs({70, 3})},
      .op = [](const Tensors& t) { return Tensors{rms_norm(t[0], t[1], 1e-6)}; },
      .reference =
          [](const Tensors& t) { return Tensors{t[0] / (t[0].pow(2).mean(-1, true) + 1e-6).sqrt() * t[1]}; },
      .terms = 1};  // with one column the gradient of x is a difference of terms near 1
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

TEST(RmsNorm, EqualsTorch) {
  const at::Tensor x = random_normal({33, 512}, at::kFloat, "x"),
                   weight = random_normal({512}, at::kFloat, "w");
  EXPECT_TRUE(at::allclose(rms_norm(x, weight, 1e-6), at::rms_norm(x, {512}, weight, 1e-6), 1e-5, 1e-6));
}

TEST(RmsNorm, NamesWhatIsWrong) {
  EXPECT_THAT(
      [] {
        rms_norm(at::randn({2, 4}), at::randn({3}), 1e-6);
      },
      ::testing::ThrowsMessage<c10::ValueError>(
          ::testing::HasSubstr("[rms_norm] weight does not match x [2, 4]; expected [4], got [3]")));
  EXPECT_THROW(rms_norm(at::randn({2, 0}), at::randn({0}), 1e-6), c10::ValueError);
}

}  // namespace
}  // namespace axial::ops
