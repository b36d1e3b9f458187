// SPDX-License-Identifier: Apache-2.0
// Rules find their parameters, and write what they say; errors name the parameter.
#include "axial/parallel/placement/placement.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial::parallel {
namespace {

void declare(ParameterTable& table, const std::string& name, std::vector<int64_t> shape) {
  table.declare({name, std::move(shape), Initializer::zeros()});
}

TEST(Placement, TheFirstMatchingRuleCounts) {
  ParameterTable table;
  for (const char* name : {"layers.0.up.weight", "layers.10.up.weight", "layers.0.down.weight"}) {
    declare(table, name, {6, 4});
  }
  declare(table, "layers.0.up.bias", {6});
  declare(table, "layers.0.down.bias", {6});
  declare(table, "upper", {6});
  place_parameters(table,
                   {{"layers.*.up.*", Placement::column({{2, 4}}, {{0, 2, 3}})},
                    {"layers.*.weight", Placement::row({{1, 2}, {2, 4}})},
                    {"layers.*.bias", Placement::stream()},
                    {"*", Placement::stream()}},
                   {.sequence_regions = true});
  for (const char* name : {"layers.0.up.weight", "layers.10.up.weight"}) {
    EXPECT_EQ(table.at(name).holding.held_shape(), (std::vector<int64_t>{2, 4})) << name;
    EXPECT_EQ(table.at(name).sharded_axes, Axes{"tensor"});
    EXPECT_TRUE(table.at(name).partial_axes.empty());
    EXPECT_EQ(table.at(name).shared_rows.size(), 1u);
  }
  EXPECT_EQ(table.at("layers.0.up.bias").holding.held_shape(), std::vector<int64_t>{2});
  EXPECT_EQ(table.at("layers.0.down.weight").holding.slices[1], (Intervals{{1, 4}}));
  EXPECT_TRUE(table.at("layers.0.down.bias").sharded_axes.empty());
  EXPECT_EQ(table.at("layers.0.down.bias").partial_axes, Axes{"tensor"});
  EXPECT_EQ(table.at("upper").partial_axes, Axes{"tensor"});
}

TEST(Placement, NamesTheParameterThatDoesNotFit) {
  const auto message = [](const std::vector<PlacementRule>& rules, bool early = true) -> std::string {
    ParameterTable table;
    declare(table, "norm.weight", {6});
    if (!early) table.materialize(at::kCPU, at::kFloat, 1);
    try {
      place_parameters(table, rules, {});
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(message({{"norm.bias", {}}, {"norm", {}}, {"orm.*", {}}, {"norm.weight.*", {}}}),
              HasSubstr("parameter 'norm.weight' has no line"));
  EXPECT_THAT(message({{"*", Placement::row({{0, 1}})}}), HasSubstr("cut along dim 1"));
  EXPECT_THAT(message({{"*", Placement::column({{4, 7}})}}), HasSubstr("inside [0, 6)"));
  EXPECT_THAT(message({{"*", Placement::stream()}}, false), HasSubstr("has a value already"));
  EXPECT_EQ(message({{"n*m.*t", Placement::stream()}}), "");
}

TEST(Placement, DegreeOfAMeshWithoutTheAxisIsOne) {
  EXPECT_EQ(tensor_degree(Mesh({{"data", 4}}, 4, 2)), 1);
  EXPECT_EQ(tensor_degree(Mesh({{"data", 2}, {"tensor", 2}}, 4, 2)), 2);
}

}  // namespace
}  // namespace axial::parallel
