// SPDX-License-Identifier: Apache-2.0
#include "axial/train/profile/op_profile.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "axial/core/check/check.h"
#include "axial/ops/layer_norm/layer_norm.h"

namespace axial::train {
namespace {

const OpProfile::Row* find(const std::vector<OpProfile::Row>& rows, const std::string& name) {
  for (const auto& row : rows) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

TEST(OpProfile, CountsOutermostOpsAndAddsUpToTheTime) {
  const at::Tensor a = at::ones({8, 8});
  const auto begin = std::chrono::steady_clock::now();
  OpProfile profile;
  for (int i = 0; i < 3; ++i) at::matmul(a, a);  // calls aten::mm inside
  {
    RECORD_USER_SCOPE("a marked part");
    at::mm(a, a);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const auto rows = profile.rows();
  const double lasted = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  ASSERT_NE(find(rows, "aten::matmul"), nullptr);
  EXPECT_EQ(find(rows, "aten::matmul")->calls, 3);
  EXPECT_EQ(find(rows, "aten::mm"), nullptr);
  ASSERT_NE(find(rows, "a marked part"), nullptr);
  EXPECT_GE(find(rows, "a marked part")->seconds, 0.02);
  EXPECT_EQ(rows.back().name, "between ops");
  EXPECT_GE(rows.back().seconds, 0.01);
  double sum = 0;
  for (const auto& row : rows) sum += row.seconds;
  EXPECT_LE(sum, lasted);
  EXPECT_GE(sum, 0.03);
}

TEST(OpProfile, SeesOneThreadAndEndsWithItsLife) {
  const at::Tensor a = at::ones({2, 2});
  {
    OpProfile profile;
    EXPECT_THROW(OpProfile(), Error);
    std::thread([&] { at::mm(a, a); }).join();
    EXPECT_EQ(profile.rows().size(), 1U);
    at::mm(a, a);
    EXPECT_EQ(profile.rows().size(), 2U);
  }
  at::mm(a, a);
  EXPECT_EQ(OpProfile().rows().size(), 1U);
}

TEST(OpProfile, NamesTheBackwardOfAnOpShortly) {
  const at::Tensor a = at::ones({2, 2}).requires_grad_();
  const at::Tensor loss = ops::layer_norm(a, at::ones({2}), std::nullopt, 1e-5).sum();
  OpProfile profile;
  loss.backward();
  const auto rows = profile.rows();
  EXPECT_NE(find(rows, "backward of LayerNorm"), nullptr);
  EXPECT_NE(find(rows, "backward of SumBackward0"), nullptr);
}

TEST(OpProfile, TableIsPerStep) {
  const at::Tensor a = at::ones({2, 2});
  OpProfile profile;
  for (int i = 0; i < 8; ++i) at::mm(a, a);
  const std::string text = profile.render(4);
  EXPECT_THAT(text, ::testing::ContainsRegex("aten::mm +2\\.0 "));
  EXPECT_THAT(text, ::testing::HasSubstr("between ops"));
  EXPECT_THAT(text, ::testing::HasSubstr("100.0 %"));
}

}  // namespace
}  // namespace axial::train
