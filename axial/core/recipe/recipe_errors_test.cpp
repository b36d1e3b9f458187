// SPDX-License-Identifier: Apache-2.0
// What a recipe with a fault says: file and line, or the override; path; remedy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "axial/core/recipe/recipe.h"
#include "axial/core/recipe/test_options.h"

namespace axial::recipe {
namespace {

using detail::blamed;
using testing::HasSubstr;

TEST(Recipe, ErrorsNameFileLinePathAndRemedy) {
  EXPECT_EQ(error_of("train:\n  stepz: 5\n"), "r.yaml:2: train.stepz: unknown key; did you mean 'steps'?");
  EXPECT_EQ(error_of("warmup: 5"), "r.yaml:1: warmup: unknown key; did you mean 'train.schedule.warmup'?");
  EXPECT_EQ(error_of("qqqqqq: 5"),
            "r.yaml:1: qqqqqq: unknown key; expected one of name, deterministic, data, train, model");
  EXPECT_EQ(error_of("train:\n  steps: ten"), "r.yaml:2: train.steps: expected an integer, got 'ten'");
  EXPECT_EQ(error_of("train: {steps: 1.5}"), "r.yaml:1: train.steps: expected an integer, got '1.5'");
  EXPECT_EQ(error_of("train: {steps: '5'}"), "r.yaml:1: train.steps: expected an integer, got '5'");
  EXPECT_EQ(error_of("train: {steps:}"), "r.yaml:1: train.steps: expected an integer, got nothing");
  EXPECT_EQ(error_of("train: {steps: 99999999999999999999}"),
            "r.yaml:1: train.steps: expected an integer from -9223372036854775808 to 9223372036854775807, "
            "got '99999999999999999999'");
  EXPECT_THAT(error_of("train: {threads: 3000000000}"), HasSubstr("from -2147483648 to 2147483647"));
  EXPECT_EQ(error_of("train: {rate: fast}"), "r.yaml:1: train.rate: expected a number, got 'fast'");
  EXPECT_EQ(error_of("deterministic: yes"), "r.yaml:1: deterministic: expected true or false, got 'yes'");
  EXPECT_EQ(error_of("name: [a]"), "r.yaml:1: name: expected text, got a list of 1");
  EXPECT_EQ(error_of("train: 5"), "r.yaml:1: train: expected a section, got '5'");
  EXPECT_EQ(error_of("train:\n  sizes:\n   - 1\n   - x"),
            "r.yaml:4: train.sizes[1]: expected an integer, got 'x'");
  EXPECT_EQ(error_of("train: {sizes: 3}"), "r.yaml:1: train.sizes: expected a list, got '3'");
  EXPECT_EQ(
      error_of("train:\n schedule:\n  kind: cosin"),
      "r.yaml:3: train.schedule.kind: expected one of cosine, linear, got 'cosin'; did you mean 'cosine'?");
  EXPECT_EQ(error_of("data:\n - path: a\n - weight: 2"),
            "r.yaml:3: data[1].path: missing; this key is required");
  EXPECT_EQ(error_of("train:\n  schedule:\n    warmup: 500"),
            "r.yaml:3: train.schedule.warmup: [schedule] warmup; expected <= 100, got 500");
  EXPECT_EQ(error_of("name: a\ntrain: {}\nname: b"), "r.yaml:3: name: duplicate key; first given at line 1");
  EXPECT_THAT(error_of("train:\n  steps: [1, 2"), HasSubstr("not valid YAML"));
  EXPECT_THAT(error_of("a: 1\n---\nb: 2"), HasSubstr("r.yaml:3: expected one YAML document"));
  EXPECT_THAT(error_of("[a]: 1"), HasSubstr("a key must be a word"));
  EXPECT_THAT(error_of("name: !!python/object x"), HasSubstr("tag 'tag:yaml.org,2002:python/object'"));
}

TEST(Recipe, WhatValidateRefusesIsFoundByTheFieldItNames) {
  // The key's line, not the section's.
  EXPECT_EQ(error_of("train:\n  schedule:\n    kind: linear\n    warmup: 500"),
            "r.yaml:4: train.schedule.warmup: [schedule] warmup; expected <= 100, got 500");
  // The override, where it is the override that is at fault.
  EXPECT_EQ(override_error_of("train.schedule.warmup=500"),
            "--set train.schedule.warmup=500: train.schedule.warmup: [schedule] warmup; expected <= 100, "
            "got 500");
  const Node section = load_text("a: 1\nb: {c: 2,\n  d: 3}\nop: 4", "r.yaml");
  EXPECT_EQ(blamed("[op] settings 'b.d', 'a'; expected 1, got 3", section, "x").where.line, 3);
  EXPECT_EQ(blamed("[op] settings 'b.d', 'a'; expected 1, got 3", section, "x").path, "x.b.d");
  EXPECT_EQ(blamed("[op] no key here", section, "x").path, "x");
  // Of several, the one that an override gave: the others passed before.
  Node overridden = section;
  apply_override(overridden, "a=5");
  EXPECT_EQ(blamed("[op] op; expected at most a, got 4", section, "x").path, "x.op");
  EXPECT_EQ(blamed("[op] op; expected at most a, got 4", overridden, "x").where.text(), "--set a=5");
}

TEST(Recipe, AnUnknownKeyIsReportedBeforeAMissingOne) {
  EXPECT_EQ(error_of("data: [{paht: a}]"), "r.yaml:1: data[0].paht: unknown key; did you mean 'path'?");
}

TEST(Recipe, HostileDocumentsEndInErrors) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
  }
  EXPECT_THAT(error_of(bomb), HasSubstr("more than 100000 values"));
  std::string ladder = "a0: &a0 [x]\n";
  for (int i = 1; i < 200; ++i) ladder += fmt::format("a{0}: &a{0} [*a{1}]\n", i, i - 1);
  EXPECT_THAT(error_of(ladder), HasSubstr("nested deeper than 64"));
  EXPECT_THAT(error_of("model: &m [*m]"), HasSubstr("an alias inside the value it names"));
  EXPECT_THAT(error_of(std::string(100'000, '[')), HasSubstr("r.yaml:1: nested deeper than 64"));
  EXPECT_THAT(error_of("model: " + std::string(kMaxBytes, 'x')), HasSubstr("expected at most 4194304 bytes"));
  EXPECT_THAT(error_of(std::string("\0\x01\xff\xfe", 4)), HasSubstr("r.yaml:"));
}

TEST(Recipe, JsonReadsLikeYamlAndErrorsFindTheirLine) {
  EXPECT_EQ(parse<Width>(nlohmann::json{{"width", 16}}).width, 16);
  const Node model = load_text("type: gpt\nwidth: 4\nstages:\n  - warmup: 1\n  - warmup: x\n", "r.yaml");
  try {
    with_locations(model, "model", [&] {
      nlohmann::json config = to_json(model);
      config.erase("type");
      return parse<Width>(config, "model");
    });
    FAIL();
  } catch (const RecipeError& e) {
    EXPECT_STREQ(e.what(), "r.yaml:5: model.stages[1].warmup: expected an integer, got 'x'");
  }
  try {
    with_locations(model, "model", [] {
      return parse<Width>(nlohmann::json{{"width", 1}, {"stagez", 2}}, "model");
    });
    FAIL();
  } catch (const RecipeError& e) {
    EXPECT_STREQ(e.what(), "r.yaml:1: model.stagez: unknown key; did you mean 'stages'?");
  }
  try {
    with_locations(model, "model", []() -> int { fail("gpt", "layers; expected > 0, got 0"); });
    FAIL();
  } catch (const RecipeError& e) {
    EXPECT_STREQ(e.what(), "r.yaml:1: model: [gpt] layers; expected > 0, got 0");
  }
  try {
    with_locations(model, "model", []() -> int { fail("gpt", "width; expected > 4, got 4"); });
    FAIL();
  } catch (const RecipeError& e) {
    EXPECT_STREQ(e.what(), "r.yaml:2: model.width: [gpt] width; expected > 4, got 4");
  }
  const Node late = load_text("width: 4\nstages:\n  - kind: linear\n    warmup: 500\n", "r.yaml");
  try {  // refused by a validate() that saw the JSON form, which has no lines
    with_locations(late, "model", [&] { return parse<Width>(to_json(late), "model"); });
    FAIL();
  } catch (const RecipeError& e) {
    EXPECT_STREQ(e.what(), "r.yaml:4: model.stages[0].warmup: [schedule] warmup; expected <= 100, got 500");
  }
}

TEST(Recipe, FilesAreNamedInErrors) {
  const auto path = std::filesystem::path(testing::TempDir()) / "axial_recipe_test.yaml";
  std::ofstream(path) << "train:\n  steps: 5\n  rate: [1]\n";
  try {
    parse_file<Recipe>(path);
    FAIL();
  } catch (const RecipeError& e) {
    EXPECT_EQ(e.what(), path.string() + ":3: train.rate: expected a number, got a list of 1");
  }
  EXPECT_EQ(parse_file<Recipe>(path, {"train.rate=0.5", "train.steps=6"}).train.steps, 6);
  std::ofstream(path) << "- a\n";
  EXPECT_THROW(parse_file<Recipe>(path), RecipeError);
  std::filesystem::remove(path);
  EXPECT_THROW(parse_file<Recipe>(path), IoError);
}

TEST(Recipe, OverridesAreNamedInErrors) {
  EXPECT_EQ(override_error_of("train.stepz=3"),
            "--set train.stepz=3: train.stepz: unknown key; did you mean 'steps'?");
  EXPECT_EQ(override_error_of("steps=3"), "--set steps=3: steps: unknown key; did you mean 'train.steps'?");
  EXPECT_EQ(override_error_of("trian.steps=3"),
            "--set trian.steps=3: trian: unknown key; did you mean 'train'?");
  EXPECT_EQ(override_error_of("train.steps=x"),
            "--set train.steps=x: train.steps: expected an integer, got 'x'");
  EXPECT_EQ(override_error_of("train.steps.x=1"),
            "--set train.steps.x=1: train.steps.x: 'x' is below a value that is not a section");
  EXPECT_EQ(override_error_of("data.1.path=b"),
            "--set data.1.path=b: data.1.path: expected an index from 0 to 0 into a list, got '1'");
  EXPECT_EQ(override_error_of("train.steps"), "--set: expected path=value, got 'train.steps'");
  EXPECT_EQ(override_error_of("train..steps=1"),
            "--set train..steps=1: 'train..steps' is not a path of keys joined by dots");
  EXPECT_THAT(override_error_of("train={steps: [1]}"), HasSubstr("--set train={steps: [1]}: train.steps:"));
  EXPECT_EQ(override_error_of("train.steps=" + std::string(100, 'x')).substr(0, 19), "--set train.steps: ");
  EXPECT_EQ(override_error_of("train.steps=\"a\nb\"").substr(0, 19), "--set train.steps: ");
  EXPECT_THAT(override_error_of("train.steps=[1"),
              HasSubstr("--set train.steps=[1: train.steps: not valid YAML"));
}

}  // namespace
}  // namespace axial::recipe
