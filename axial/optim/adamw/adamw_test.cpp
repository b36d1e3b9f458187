// SPDX-License-Identifier: Apache-2.0
// The update against the formula of the paper in ATen ops, for every kind of value; state and Meta.
#include "axial/optim/adamw/adamw.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"

namespace axial::optim {
namespace {

using parallel::Initializer;
using parallel::Parameter;
using parallel::ParameterTable;

void declare(ParameterTable& table, at::ScalarType dtype, at::Device device = at::kCPU) {
  table.declare({"w", {7, 5}, Initializer::normal(0.5)});
  table.declare({"b", {11}, Initializer::normal(0.5), false});
  table.declare({"still", {3}, Initializer::ones()});
  table.materialize(device, dtype, 9);
}

at::Tensor gradient(const Parameter& row, int64_t step) {
  const bool wide = row.value.scalar_type() == at::kDouble;
  at::Tensor grad = at::empty(row.value.sizes(), at::kDouble);
  for (int64_t i = 0; i < grad.numel(); ++i) {
    grad.view({-1})[i].fill_(random_normal(
        root_key(4).child(row.spec.name).child(static_cast<uint64_t>(step)), static_cast<uint64_t>(i)));
  }
  return grad.to(wide ? at::kDouble : at::kFloat);
}

// Loshchilov and Hutter, algorithm 2, in fp64.
struct Formula {
  at::Tensor p, m, v;
  void step(const at::Tensor& grad, const AdamWOptions& o, double lr, double decay, int64_t t) {
    const at::Tensor g = grad.to(at::kDouble);
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const at::Tensor m_hat = m / (1 - std::pow(o.beta1, t));
    const at::Tensor v_hat = v / (1 - std::pow(o.beta2, t));
    p = p * (1 - lr * decay) - lr * m_hat / (v_hat.sqrt() + o.eps);
  }
};

// Six updates; fp64 differs by rounding alone, fp32 by 6 updates x a few 2^-24 of values of order one.
void compare(at::ScalarType dtype, double tolerance) {
  ParameterTable table;
  declare(table, dtype);
  const AdamWOptions options;
  std::map<std::string, Formula> expected;
  for (const char* name : {"w", "b"}) {
    Parameter& row = table.at(name);
    const at::Tensor& start =
        row.companions.count("master") ? row.companions.at("master") : row.value.detach();
    const at::Tensor p = start.to(at::kDouble).clone();
    expected[name] = {p, at::zeros_like(p), at::zeros_like(p)};
  }
  AdamW adamw(options, table);
  const double grad_scale = 1.0 / 16;
  for (int64_t t = 1; t <= 6; ++t) {
    const double lr = 0.01 * static_cast<double>(t);
    for (const char* name : {"w", "b"}) {
      Parameter& row = table.at(name);
      row.grad = gradient(row, t);
      expected[name].step(row.grad * grad_scale, options, lr, row.spec.weight_decay ? 0.1 : 0.0, t);
    }
    adamw.step(lr, grad_scale);
  }
  for (const char* name : {"w", "b"}) {
    const Parameter& row = table.at(name);
    const bool narrow = row.companions.count("master") > 0;
    const at::Tensor got = narrow ? row.companions.at("master") : row.value.detach();
    EXPECT_LT((got.to(at::kDouble) - expected[name].p).abs().max().item<double>(), tolerance);
    EXPECT_LT((row.companions.at("exp_avg_sq").to(at::kDouble) - expected[name].v).abs().max().item<double>(),
              tolerance);
    EXPECT_TRUE(!narrow || at::equal(row.value.detach(), got.to(dtype)));
  }
  EXPECT_TRUE(at::equal(table.at("still").value.detach(), at::ones({3}, dtype)));
  EXPECT_EQ(adamw.state(), nlohmann::json({{"step", 6}}));
}

TEST(AdamW, MatchesTheFormulaInFp64) { compare(at::kDouble, 1e-14); }
TEST(AdamW, MatchesTheFormulaInFp32) { compare(at::kFloat, 3e-6); }
TEST(AdamW, UpdatesTheMasterOfNarrowValues) {
  compare(at::kBFloat16, 3e-6);
  compare(at::kHalf, 3e-6);
}

TEST(AdamW, ResumesFromItsState) {
  const auto run = [](bool interrupted) {
    ParameterTable table;
    declare(table, at::kDouble);
    auto adamw = std::make_unique<AdamW>(AdamWOptions{}, table);
    for (int64_t t = 1; t <= 4; ++t) {
      if (interrupted && t == 3) {
        const nlohmann::json state = adamw->state();
        adamw = std::make_unique<AdamW>(AdamWOptions{}, table);  // moments stay in the table
        adamw->load_state(state);
      }
      table.at("w").grad = gradient(table.at("w"), t);
      adamw->step(0.01, 1.0);
    }
    return table.at("w").value.detach();
  };
  EXPECT_TRUE(at::equal(run(true), run(false)));
}

TEST(AdamW, MetaHasTheSameBuffersAndComputesNothing) {
  ParameterTable table;
  declare(table, at::kBFloat16, at::kMeta);
  AdamW adamw({}, table);
  for (const auto& row : table.rows()) row->grad = at::empty_like(row->companions.at("master"));
  adamw.step(0.1, 1.0);
  for (const char* name : {"master", "exp_avg", "exp_avg_sq"}) {
    const at::Tensor& companion = table.at("w").companions.at(name);
    EXPECT_TRUE(companion.is_meta());
    EXPECT_EQ(companion.scalar_type(), at::kFloat);
    EXPECT_EQ(companion.sizes(), table.at("w").value.sizes());
  }
  EXPECT_EQ(adamw.state().at("step"), 1);
}

TEST(AdamW, ALaterBackwardNoticesTheUpdate) {
  ParameterTable table;
  declare(table, at::kFloat);
  AdamW adamw({}, table);
  const at::Tensor& value = table.at("w").value;
  const int64_t before = value._version();
  table.at("w").grad = at::ones({7, 5});
  adamw.step(0.1, 1.0);
  EXPECT_GT(value._version(), before);
}

TEST(AdamW, RefusesWhatItCannotUpdate) {
  ParameterTable table;
  EXPECT_THROW((AdamWOptions{.beta2 = 1.0}.validate()), ValueError);
  EXPECT_THROW((AdamWOptions{.learning_rate = -1.0}.validate()), ValueError);
  EXPECT_THROW((AdamWOptions{.weight_decay = std::nan("")}.validate()), ValueError);
  table.declare({"w", {2, 3}, Initializer::ones()});
  EXPECT_THROW(AdamW({}, table), ValueError);
  table.materialize(at::kCPU, at::kBFloat16, 1);
  AdamW adamw({}, table);
  table.at("w").grad = at::ones({3, 2});
  EXPECT_THROW(adamw.step(0.1, 1.0), ValueError);
  table.at("w").grad = at::ones({3, 2}).t();
  EXPECT_THROW(adamw.step(0.1, 1.0), ValueError);
  EXPECT_THROW(adamw.load_state({{"steps", 1}}), ValueError);
  EXPECT_THROW(adamw.load_state({{"step", -1}}), ValueError);
  table.at("w").companions.clear();
  EXPECT_THROW(AdamW({}, table), ValueError);
}

}  // namespace
}  // namespace axial::optim
