// SPDX-License-Identifier: Apache-2.0
// Recipes of runs: what --data replaces, which paths are saved, and what counts as another run.
#include "axial/train/recipe/run_recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "axial/core/file/file.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr const char* kMixture = R"(
model: {hidden_size: 32}
data:
  mixture: [{files: [a.fasta], weight: 2}, {files: ["b*.fasta"], weight: 1}]
)";

// Runs in a folder of its own, with pattern characters in its name, and goes back.
class RunRecipeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(here_);
    fs::current_path(here_);
    std::ofstream("a.fasta") << ">a\nATG\n";
    std::ofstream("odd[1].fasta") << ">a\nATG\n";
    write_file_atomically("recipe.yaml", kMixture);
  }
  void TearDown() override { fs::current_path(before_); }

  RunRecipe read(const std::vector<std::string>& overrides = {}) {
    return read_run_recipe("recipe.yaml", overrides, {});
  }

  TemporaryFolder folder_;
  fs::path before_ = fs::current_path();
  fs::path here_ = fs::canonical(folder_.path()) / "run[2]";
};

TEST_F(RunRecipeTest, FilesReplaceFilesAndMixture) {
  EXPECT_EQ(read().data.mixture.size(), 2u);
  const RunRecipe recipe = read_run_recipe("recipe.yaml", {}, {"c.fasta"});
  EXPECT_THAT(recipe.data.mixture, IsEmpty());
  EXPECT_THAT(recipe.data.files, ElementsAre("c.fasta"));
  write_file_atomically("none.yaml", "model: {}\n");
  EXPECT_THAT(read_run_recipe("none.yaml", {}, {"c.fasta"}).data.files, ElementsAre("c.fasta"));
}

TEST_F(RunRecipeTest, PathsBecomeAbsoluteAndKeepTheirMeaning) {
  const std::string here = here_.string();
  const std::string in_pattern = fs::canonical(folder_.path()).string() + "/run\\[2]";
  RunRecipe recipe;
  recipe.data.files = {"a.fasta",      "./a.fasta", "../x/a.fasta",  "*.fasta",
                       "odd[1].fasta", ".",         "/else/a.fasta", "~/a.fasta"};
  recipe.data.validation_files = {"v.fasta"};
  recipe.data.mixture = {{{"a.fasta"}, 1}};
  recipe.data.cache = "cache";
  const RunRecipe saved = with_absolute_paths(recipe);
  EXPECT_THAT(saved.data.files, ElementsAre(here + "/a.fasta", here + "/a.fasta", here + "/../x/a.fasta",
                                            in_pattern + "/*.fasta", here + "/odd[1].fasta", here,
                                            "/else/a.fasta", "~/a.fasta"));
  EXPECT_THAT(saved.data.validation_files, ElementsAre(here + "/v.fasta"));
  EXPECT_THAT(saved.data.mixture[0].files, ElementsAre(here + "/a.fasta"));
  EXPECT_EQ(saved.data.cache, here + "/cache");
  EXPECT_EQ(with_absolute_paths(saved).data.files, saved.data.files);
  for (const std::string cache : {"", "none"}) {
    recipe.data.cache = cache;
    EXPECT_EQ(with_absolute_paths(recipe).data.cache, cache);
  }
}

TEST_F(RunRecipeTest, TheSavedRecipeIsTheSameRunAsTheTypedOne) {
  const RunRecipe typed = read();
  const auto saved =
      recipe::parse<RunRecipe>(recipe::load_text(resolved_text(with_absolute_paths(typed)), "saved"));
  EXPECT_THAT(recipe_conflicts(saved, typed), IsEmpty());
  EXPECT_THAT(recipe_conflicts(typed, saved), IsEmpty());
  EXPECT_THAT(recipe_conflicts(saved, read({"train.steps=7"})), IsEmpty());
  EXPECT_EQ(recipe_conflicts(saved, read({"data.mixture.0.weight=3"})).size(), 1u);
  EXPECT_EQ(recipe_conflicts(saved, read({"data.mixture.0.files=[c.fasta]"})).size(), 1u);
}

TEST_F(RunRecipeTest, EveryModelListsItsKeys) {
  models::ModelRegistry registry;
  const auto entry = [](const char* key) {
    models::ModelEntry made;
    made.fields = {{key, "integer", "1", "how many"}};
    return made;
  };
  registry.add("tiny", entry("width"));
  EXPECT_THAT(describe_recipe(registry), ::testing::ContainsRegex("\n  width: 1 +\\(integer\\) how many\n"));
  registry.add("other", entry("depth"));
  const std::string both = describe_recipe(registry);
  EXPECT_THAT(both, ::testing::ContainsRegex("\n  type: decoder +\\(other \\| tiny\\)"));
  EXPECT_THAT(both, ::testing::HasSubstr("other: how many"));
  EXPECT_THAT(both, ::testing::HasSubstr("\ntrain:"));
}

}  // namespace
}  // namespace axial::train
