// SPDX-License-Identifier: Apache-2.0
// Equal initial values for every layout, master copies, aliases, errors.
#include "axial/parallel/parameter_table/parameter_table.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial::parallel {
namespace {

ParameterSpec normal_spec(const std::string& name, std::vector<int64_t> shape) {
  return {name, std::move(shape), Initializer::normal(0.02)};
}

at::Tensor materialized(const Holding& holding, at::ScalarType dtype = at::kDouble) {
  ParameterTable table;
  table.declare(normal_spec("w", {12, 10})).holding = holding;
  table.materialize(at::kCPU, dtype, 17);
  return table.at("w").part();
}

TEST(ParameterTable, ElementsAreDrawnByGlobalIndex) {
  const std::vector<int64_t> shape{12, 10};
  const at::Tensor whole = materialized(Holding::whole(shape));
  const RngKey key = root_key(17).child("w");
  for (int64_t i = 0; i < whole.numel(); ++i) {
    EXPECT_EQ(whole.flatten()[i].item<double>(), 0.02 * random_normal(key, static_cast<uint64_t>(i)));
  }
}

// Rows 1-2, 5-6, 9-10 (a fused weight cut three ways) and the last seven columns, then a flat piece.
TEST(ParameterTable, AHeldPartEqualsThePartOfTheWhole) {
  const std::vector<int64_t> shape{12, 10};
  const at::Tensor whole = materialized(Holding::whole(shape));
  Holding holding;
  holding.slices = {{{1, 3}, {5, 7}, {9, 11}}, {{3, 10}}};
  holding.flat_end = 42;
  const at::Tensor rows = at::tensor(std::vector<int64_t>{1, 2, 5, 6, 9, 10});
  const at::Tensor expected = whole.index_select(0, rows).narrow(1, 3, 7);
  EXPECT_TRUE(at::equal(materialized(holding), expected));
  holding.flat_begin = 11;
  holding.flat_end = 30;
  EXPECT_TRUE(at::equal(materialized(holding), expected.flatten().slice(0, 11, 30)));
  EXPECT_FALSE(holding.is_whole(shape));
}

TEST(ParameterTable, NarrowValuesAreRoundedFromTheMaster) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    ParameterTable table;
    table.declare(normal_spec("w", {12, 10}));
    table.declare({"b", {10}, Initializer::ones(), false});
    table.materialize(at::kCPU, dtype, 17);
    const Parameter& w = table.at("w");
    EXPECT_EQ(w.value.scalar_type(), dtype);
    EXPECT_EQ(w.companions.at("master").scalar_type(), at::kFloat);
    EXPECT_FALSE(w.companions.at("master").requires_grad());
    EXPECT_TRUE(at::equal(w.companions.at("master").to(dtype), w.value.detach()));
    EXPECT_TRUE(at::equal(w.companions.at("master"), materialized(w.holding).to(at::kFloat)));
    EXPECT_TRUE(at::equal(table.at("b").companions.at("master"), at::ones({10})));
  }
}

TEST(ParameterTable, ValuesDoNotDependOnThreads) {
  const int threads = at::get_num_threads();
  const auto draw = [](int n) {
    at::set_num_threads(n);
    ParameterTable table;
    table.declare(normal_spec("big", {300, 101}));
    table.materialize(at::kCPU, at::kFloat, 5);
    return table.at("big").value.detach();
  };
  const at::Tensor one = draw(1);
  EXPECT_TRUE(at::equal(one, draw(2)));
  at::set_num_threads(threads);
  EXPECT_NEAR(one.mean().item<double>(), 0.0, 0.02 / std::sqrt(30300.0) * 5);
  EXPECT_NEAR(one.std().item<double>(), 0.02, 0.02 * 0.02);
}

TEST(ParameterTable, MetaMakesShapesOnly) {
  ParameterTable table;
  Parameter& row = table.declare(normal_spec("w", {1 << 20, 1 << 20}));
  row.zero_stage = 3;
  row.holding.flat_begin = 5;
  row.holding.flat_end = 5 + (int64_t{1} << 38);
  table.materialize(at::kMeta, at::kBFloat16, 1);
  EXPECT_TRUE(table.at("w").value.is_meta());
  EXPECT_EQ(table.at("w").value.sizes(), at::IntArrayRef({int64_t{1} << 20, int64_t{1} << 20}));
  EXPECT_EQ(table.at("w").value.storage().nbytes(), 0u);
  EXPECT_EQ(table.at("w").shard.sizes(), at::IntArrayRef({int64_t{1} << 38}));
  EXPECT_TRUE(table.at("w").companions.at("master").is_meta());
  EXPECT_EQ(table.num_elements(), int64_t{1} << 40);
}

TEST(ParameterTable, AliasesShareTheRow) {
  ParameterTable table;
  table.declare(normal_spec("embed.weight", {3, 2}));
  table.alias("head.weight", "embed.weight");
  table.alias("again", "head.weight");
  EXPECT_EQ(&table.at("head.weight"), &table.at("embed.weight"));
  EXPECT_EQ(table.aliases().at("again"), "embed.weight");
  EXPECT_EQ(table.num_elements(), 6);
  EXPECT_EQ(table.rows().size(), 1u);
  table.at("again").grad = at::ones({3, 2});
  table.clear_gradients();
  EXPECT_FALSE(table.at("embed.weight").grad.defined());
}

TEST(ParameterTable, NamesWhatIsWrong) {
  ParameterTable table;
  table.declare(normal_spec("layers.0.weight", {3, 2}));
  EXPECT_THROW(table.declare(normal_spec("layers.0.weight", {1})), ValueError);
  EXPECT_THROW(table.alias("layers.0.weight", "layers.0.weight"), ValueError);
  EXPECT_THROW(table.alias("x", "nowhere"), ValueError);
  EXPECT_THROW(table.materialize(at::kCPU, at::kLong, 1), ValueError);
  try {
    table.at("layers.0.wieght");
    FAIL() << "an unknown name was found";
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("did you mean 'layers.0.weight'?"));
  }
  table.at("layers.0.weight").holding.slices[0] = {{2, 5}};
  EXPECT_THROW(table.materialize(at::kCPU, at::kFloat, 1), ValueError);
}

}  // namespace
}  // namespace axial::parallel
