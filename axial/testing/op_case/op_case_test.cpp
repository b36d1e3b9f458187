// SPDX-License-Identifier: Apache-2.0
// The driver must find each kind of fault: every test breaks one property of a right op.
#include "axial/testing/op_case/op_case.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include "axial/core/check/check.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

OpCase scaled_tanh() {
  const auto f = [](const Tensors& t) { return Tensors{t[0].tanh() * t[1]}; };
  return {
      .name = "scaled_tanh",
      .inputs = {{"3x5", {random_normal({3, 5}, at::kDouble, "x"), random_normal({5}, at::kDouble, "w")}},
                 {"0x5", {random_normal({0, 5}, at::kDouble, "x"), random_normal({5}, at::kDouble, "w")}}},
      .op = f,
      .reference = f,
      .second_order = true};
}

TEST(OpCase, AcceptsARightOp) { EXPECT_THAT(failures(scaled_tanh()), IsEmpty()); }

TEST(OpCase, FindsWrongValues) {
  OpCase test = scaled_tanh();
  test.op = [](const Tensors& t) { return Tensors{t[0].tanh() * t[1] + 1e-3}; };
  EXPECT_THAT(failures(test), Contains(HasSubstr("[3x5] values: Float output 0")));
}

TEST(OpCase, FindsALostGradient) {
  OpCase test = scaled_tanh();
  test.op = [](const Tensors& t) { return Tensors{t[0].tanh() * t[1] + (t[0] - t[0].detach())}; };
  const auto found = failures(test);
  EXPECT_THAT(found, Contains(HasSubstr("values: Float gradient 0")));
  EXPECT_THAT(found, Contains(HasSubstr("gradcheck: worst at input 0")));
}

TEST(OpCase, FindsAWrongDeclarationOfOrder) {
  OpCase test = scaled_tanh();
  test.second_order = false;
  EXPECT_THAT(failures(test), Contains(HasSubstr("create_graph was not refused")));
}

// tanh whose gradient is right but cut off from the graph: the silent loss of second-order terms.
struct CutTanh : torch::autograd::Function<CutTanh> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return x.tanh();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    return {grads[0] * (1 - ctx->get_saved_variables()[0].detach().tanh().pow(2))};
  }
};

TEST(OpCase, FindsLostSecondOrderTerms) {
  OpCase test = scaled_tanh();
  test.op = [](const Tensors& t) { return Tensors{CutTanh::apply(t[0]) * t[1]}; };
  EXPECT_THAT(failures(test), ElementsAre(HasSubstr("order: second order: worst at input 0")));
}

TEST(OpCase, FindsDependenceOnStrides) {
  OpCase test = scaled_tanh();
  test.op = [](const Tensors& t) {
    return Tensors{t[0].is_contiguous() ? t[0].tanh() * t[1] : t[0].tanh() * t[1] * 1.5};
  };
  const auto found = failures(test);
  EXPECT_THAT(found, Contains(HasSubstr("strides: padded rows, output 0")));
  EXPECT_THAT(found, Contains(HasSubstr("strides: transposed storage, output 0")));
}

TEST(OpCase, FindsDependenceOnThreads) {
  OpCase test = scaled_tanh();
  test.op = [](const Tensors& t) {
    return Tensors{t[0].tanh() * t[1] * (at::get_num_threads() == 3 ? 1 + 1e-6 : 1.0)};
  };
  EXPECT_THAT(failures(test), Contains(HasSubstr("threads: 3 threads, output 0")));
}

TEST(OpCase, FindsMetaShapesThatDiffer) {
  OpCase test = scaled_tanh();
  test.op = [](const Tensors& t) {
    return Tensors{t[0].is_meta() ? (t[0].tanh() * t[1]).narrow(1, 0, 2) : t[0].tanh() * t[1]};
  };
  EXPECT_THAT(failures(test), Contains(HasSubstr("[3x5] meta: output 0")));
}

}  // namespace
}  // namespace axial::testing
