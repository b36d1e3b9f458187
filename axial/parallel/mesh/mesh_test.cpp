// SPDX-License-Identifier: Apache-2.0
// Coordinates, groups and the errors of a mesh that does not fit its world.
#include "axial/parallel/mesh/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "axial/core/check/check.h"

namespace axial::parallel {
namespace {

TEST(Mesh, LastAxisIsInnermost) {
  const Mesh mesh({{"data", 2}, {"ring", 1}, {"tensor", 3}}, 6, 4);
  EXPECT_EQ(mesh.coordinate("data"), 1);
  EXPECT_EQ(mesh.coordinate("ring"), 0);
  EXPECT_EQ(mesh.coordinate("tensor"), 1);
  EXPECT_THAT(mesh.group({"tensor"}, 4), testing::ElementsAre(3, 4, 5));
  EXPECT_THAT(mesh.group({"data"}, 4), testing::ElementsAre(1, 4));
  EXPECT_THAT(mesh.group({"ring"}, 4), testing::ElementsAre(4));
  EXPECT_THAT(mesh.group({}, 4), testing::ElementsAre(4));
  EXPECT_THAT(mesh.group({"tensor", "data"}, 4), testing::ElementsAre(0, 1, 2, 3, 4, 5));
}

// For every subset of axes the groups part the ranks, and members agree on all other coordinates.
TEST(Mesh, GroupsOfEverySubsetPartTheRanks) {
  const std::vector<MeshAxis> axes{{"data", 3}, {"pipe", 2}, {"ring", 1}, {"tensor", 4}};
  const Mesh mesh(axes, 24, 0);
  for (unsigned subset = 0; subset < 16; ++subset) {
    Axes chosen;
    for (size_t i = 0; i < 4; ++i) {
      if (subset >> i & 1u) chosen.push_back(axes[i].name);
    }
    std::set<int64_t> seen;
    for (const std::vector<int64_t>& group : mesh.groups(chosen)) {
      EXPECT_EQ(static_cast<int64_t>(group.size()), mesh.group_size(chosen));
      for (size_t i = 0; i < group.size(); ++i) {
        EXPECT_TRUE(seen.insert(group[i]).second);
        EXPECT_EQ(mesh.group(chosen, group[i]), group);
        EXPECT_EQ(mesh.group_rank(chosen, group[i]), static_cast<int64_t>(i));
        for (const MeshAxis& axis : axes) {
          if (std::find(chosen.begin(), chosen.end(), axis.name) != chosen.end()) continue;
          EXPECT_EQ(mesh.coordinate(axis.name, group[i]), mesh.coordinate(axis.name, group[0]));
        }
      }
    }
    EXPECT_EQ(seen.size(), 24u);
  }
}

TEST(Mesh, NamesAllNumbersThatDoNotFit) {
  try {
    const Mesh mesh({{"data", 4}, {"tensor", 3}}, 8, 0);
    FAIL() << "12 ranks fitted a world of 8";
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("data=4 * tensor=3"));
    EXPECT_THAT(error.what(), testing::HasSubstr("world size 8, got 12"));
  }
  EXPECT_THROW(Mesh({{"data", 0}}, 0, 0), ValueError);
  EXPECT_THROW(Mesh({{"data", 2}, {"data", 2}}, 4, 0), ValueError);
  EXPECT_THROW(Mesh({{"data", 2}}, 2, 2), ValueError);
  EXPECT_THROW(Mesh({{"a", int64_t{1} << 40}, {"b", int64_t{1} << 40}}, 1, 0), ValueError);
  EXPECT_THROW(Mesh::single().degree("dta"), ValueError);
  EXPECT_THROW(Mesh::single().group_size({"data", "data"}), ValueError);
}

}  // namespace
}  // namespace axial::parallel
