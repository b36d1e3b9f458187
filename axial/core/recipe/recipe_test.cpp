// SPDX-License-Identifier: Apache-2.0
#include "axial/core/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "axial/core/recipe/test_options.h"

namespace axial::recipe {
namespace {

using testing::HasSubstr;

TEST(Recipe, ReadsEveryKindOfField) {
  const auto r = parse<Recipe>(load_text(R"(
name: "12"
deterministic: false
data:
  - path: a.fa
  - {path: b.fa, weight: 2}
train:
  steps: 1_000_000
  rate: 1e-3
  clip: null
  sizes: [3, 4, 5]
  weights: {lm: 1, aux: .5}
  schedule: {kind: linear, warmup: 7}
model: {type: gpt, layers: 3, eps: 1.0e-5, tied: true, label: "3"}
)",
                                         "r.yaml"));
  EXPECT_EQ(r.name, "12");
  EXPECT_FALSE(r.deterministic);
  ASSERT_EQ(r.data.size(), 2u);
  EXPECT_EQ(r.data[0].weight, 1);
  EXPECT_EQ(r.data[1].path, "b.fa");
  EXPECT_EQ(r.train.steps, 1'000'000);
  EXPECT_EQ(r.train.rate, 1e-3);
  EXPECT_FALSE(r.train.clip.has_value());
  EXPECT_EQ(r.train.sizes, (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(r.train.weights.at("aux"), 0.5);
  EXPECT_EQ(r.train.schedule.kind, Kind::kLinear);
  EXPECT_EQ(to_json(r.model),
            nlohmann::json::parse(R"({"type":"gpt","layers":3,"eps":1e-5,"tied":true,"label":"3"})"));
}

TEST(Recipe, EmptyDocumentAndEmptySectionsAreDefaults) {
  EXPECT_EQ(dump(parse<Recipe>(load_text("", "r"))), dump(Recipe{}));
  EXPECT_EQ(dump(parse<Recipe>(load_text("# nothing\ntrain:\n  # steps: 1\n", "r"))), dump(Recipe{}));
}

TEST(Recipe, AnchorsAndMergeKeysWork) {
  const auto r = parse<Recipe>(
      load_text("train: &t {steps: 5, sizes: &s [9]}\nmodel:\n  <<: *t\n  steps: 6\n  again: *s\n", "r"));
  EXPECT_EQ(to_json(r.model), nlohmann::json::parse(R"({"steps":6,"sizes":[9],"again":[9]})"));
  EXPECT_THAT(error_of("model: {<<: 3}"), HasSubstr("expected a section or a list of sections to merge"));
}

TEST(Recipe, OverridesReplaceAndAdd) {
  Node root = load_text("train: {steps: 5}\ndata: [{path: a}, {path: b}]", "r.yaml");
  for (const char* set : {"train.steps=7", "train.sizes=[8, 9]", "train.schedule.kind=linear", "name=x=y",
                          "data.1.path=c", "train.clip=", "model={type: gpt}", "model.layers=2"}) {
    apply_override(root, set);
  }
  const auto r = parse<Recipe>(root);
  EXPECT_EQ(r.train.steps, 7);
  EXPECT_EQ(r.train.sizes, (std::vector<int64_t>{8, 9}));
  EXPECT_EQ(r.train.schedule.kind, Kind::kLinear);
  EXPECT_EQ(r.name, "x=y");
  EXPECT_EQ(r.data[1].path, "c");
  EXPECT_FALSE(r.train.clip.has_value());
  EXPECT_EQ(to_json(r.model), nlohmann::json::parse(R"({"type":"gpt","layers":2})"));
}

TEST(Recipe, DumpParsesBackEqual) {
  Recipe r;
  r.name = "a \"quoted\"\tname: # with\nlines \xC3\xA9";
  r.data = {{"yes", 0.1}, {"007", 1.0 / 3}, {"", 1e300}, {"12", 5e-324}, {"- x", -0.0}, {"null", 2}};
  r.train.rate = 0.1 + 0.2;
  r.train.clip.reset();
  r.train.sizes.clear();
  r.train.weights = {{"a b", 1}, {"1", std::numeric_limits<double>::infinity()}, {"<<", -2}};
  r.model =
      load_text("{type: gpt, eps: 1.0, deep: [[1, {a: [x, {b: c}]}], []], none: ~, s: '1', e: {}}", "m");
  const std::string text = dump(r);
  const auto back = parse<Recipe>(load_text(text, "dump"));
  EXPECT_EQ(dump(back), text);
  EXPECT_EQ(back.name, r.name);
  EXPECT_EQ(back.train.rate, r.train.rate);
  EXPECT_EQ(back.train.weights, r.train.weights);
  EXPECT_TRUE(std::signbit(back.data[4].weight));
  EXPECT_EQ(back.data[3].weight, 5e-324);
  EXPECT_EQ(back.data[1].path, "007");
  EXPECT_EQ(to_json(back.model), to_json(r.model));
  EXPECT_TRUE(to_json(back.model)["eps"].is_number_float());
  EXPECT_EQ(options_to_json(r)["train"]["threads"], 2);
}

TEST(Recipe, DumpIsReadable) {
  Recipe r;
  r.data = {{"a.fa", 1}};
  r.model = load_text("type: gpt", "m");
  EXPECT_EQ(dump(r), R"(name: run
deterministic: true
data:
  - path: a.fa
    weight: 1.0
train:
  steps: 1000
  threads: 2
  rate: 0.0006
  clip: 1.0
  sizes: [1, 2]
  weights: {}
  schedule:
    warmup: 0
    kind: cosine
model:
  type: gpt
)");
}

TEST(Recipe, DescribeListsEveryKey) {
  const std::string help = describe<Recipe>();
  EXPECT_THAT(help, HasSubstr("  steps: 1000                         (integer) optimizer steps\n"));
  EXPECT_THAT(help,
              HasSubstr("    kind: cosine                      (cosine | linear) shape after warm-up\n"));
  EXPECT_THAT(help, HasSubstr("  path: <required>                    (text) a file\n"));
  EXPECT_THAT(help, HasSubstr("(number | null) largest gradient norm"));
  EXPECT_THAT(help, HasSubstr("train:"));
}

}  // namespace
}  // namespace axial::recipe
