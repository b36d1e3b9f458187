// SPDX-License-Identifier: Apache-2.0
// The norm against ATen in fp64, its independence of threads, and the factor at its edges.
#include "axial/optim/clip/clip.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "axial/core/check/check.h"

namespace axial::optim {
namespace {

using parallel::Initializer;
using parallel::ParameterTable;

// Gradients are the values themselves; one row has none.
void fill(ParameterTable& table, at::ScalarType dtype, at::Device device = at::kCPU) {
  table.declare({"a", {301, 517}, Initializer::normal(1.0)});
  table.declare({"none", {5}, Initializer::ones()});
  table.declare({"b", {70001}, Initializer::normal(1e-3)});
  table.declare({"empty", {0, 4}, Initializer::zeros()});
  table.materialize(device, dtype, 2);
  for (const char* name : {"a", "b", "empty"}) table.at(name).grad = table.at(name).value.detach();
}

TEST(GradientNorm, IsTheNormOfAllRows) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    ParameterTable table;
    fill(table, dtype);
    double squares = 0;
    for (const char* name : {"a", "b"})
      squares += table.at(name).grad.to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(global_gradient_norm(table), std::sqrt(squares), 1e-13 * std::sqrt(squares));
    table.clear_gradients();
    EXPECT_EQ(global_gradient_norm(table), 0.0);
  }
}

TEST(GradientNorm, DoesNotDependOnThreads) {
  const int threads = at::get_num_threads();
  ParameterTable table;
  fill(table, at::kFloat);
  at::set_num_threads(1);
  const double one = global_gradient_norm(table);
  at::set_num_threads(3);
  EXPECT_EQ(global_gradient_norm(table), one);
  at::set_num_threads(threads);
}

// 1e30 squared overflows fp32, and so does the sum of many large values.
TEST(GradientNorm, TellsOverflowFromLargeValues) {
  ParameterTable table;
  fill(table, at::kFloat);
  table.at("b").grad = at::full({70001}, 1e30, at::kFloat);
  EXPECT_NEAR(global_gradient_norm(table) / (1e30 * std::sqrt(70001.0)), 1.0, 1e-6);
  table.at("b").grad[70000].fill_(std::numeric_limits<float>::infinity());
  EXPECT_FALSE(std::isfinite(global_gradient_norm(table)));
  table.at("b").grad[70000].fill_(std::nanf(""));
  EXPECT_TRUE(std::isnan(global_gradient_norm(table)));
}

TEST(GradientNorm, IsNominalOnMeta) {
  ParameterTable table;
  fill(table, at::kFloat, at::kMeta);
  EXPECT_EQ(global_gradient_norm(table), 1.0);
  EXPECT_EQ(global_gradient_norm(table, nullptr, 3.0), 3.0);
}

TEST(ClipFactor, OnlyEverShrinks) {
  EXPECT_EQ(clip_factor(4.0, 1.0), 0.25);
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(1.0, 1.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 1.0), 1.0);
  EXPECT_EQ(clip_factor(100.0, 0.0), 1.0);
  EXPECT_EQ(clip_factor(std::numeric_limits<double>::infinity(), 1.0), 1.0);
  EXPECT_THROW(clip_factor(1.0, -1.0), ValueError);
}

}  // namespace
}  // namespace axial::optim
