// SPDX-License-Identifier: Apache-2.0
#include "axial/core/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

namespace axial::recipe {

enum class Kind { kCosine, kLinear };
template <>
struct EnumNames<Kind> {
  static constexpr std::pair<std::string_view, Kind> names[] = {{"cosine", Kind::kCosine},
                                                                {"linear", Kind::kLinear}};
};

namespace {

using testing::HasSubstr;

struct Schedule {
  int64_t warmup = 0;
  Kind kind = Kind::kCosine;
  template <class V>
  void fields(V& v) {
    v("warmup", warmup, "steps of linear warm-up from 0");
    v("kind", kind, "shape after warm-up");
  }
  void validate() const { AXIAL_CHECK(warmup <= 100, "schedule", "warmup; expected <= 100, got {}", warmup); }
};

struct Source {
  std::string path;
  double weight = 1;
  template <class V>
  void fields(V& v) {
    v("path", path, "a file", kRequired);
    v("weight", weight, "share of rows");
  }
};

struct Train {
  int64_t steps = 1000;
  int32_t threads = 2;
  double rate = 6e-4;
  std::optional<double> clip = 1.0;
  std::vector<int64_t> sizes = {1, 2};
  std::map<std::string, double> weights;
  Schedule schedule;
  template <class V>
  void fields(V& v) {
    v("steps", steps, "optimizer steps");
    v("threads", threads, "threads");
    v("rate", rate, "peak learning rate");
    v("clip", clip, "largest gradient norm; null: no clipping");
    v("sizes", sizes, "sizes");
    v("weights", weights, "loss weights by name");
    v("schedule", schedule, "learning rate over steps");
  }
};

struct Recipe {
  std::string name = "run";
  bool deterministic = true;
  std::vector<Source> data;
  Train train;
  Node model;
  template <class V>
  void fields(V& v) {
    v("name", name, "name of the run");
    v("deterministic", deterministic, "bitwise repeatable");
    v("data", data, "where rows come from");
    v("train", train, "the loop");
    v("model", model, "model type and its configuration");
  }
};

struct Width {
  int64_t width = 8;
  std::vector<Schedule> stages;
  template <class V>
  void fields(V& v) {
    v("width", width, "features", kRequired);
    v("stages", stages, "stages");
  }
};

std::string error_of(std::string_view text) {
  try {
    parse<Recipe>(load_text(text, "r.yaml"));
  } catch (const RecipeError& e) {
    return e.what();
  }
  return "no error";
}

std::string override_error_of(const std::string& assignment) {
  try {
    Node root = load_text("train: {steps: 5}\ndata: [{path: a}]", "r.yaml");
    apply_override(root, assignment);
    parse<Recipe>(root);
  } catch (const RecipeError& e) {
    return e.what();
  }
  return "no error";
}

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

TEST(Recipe, ErrorsNameFileLinePathAndRemedy) {
  EXPECT_EQ(error_of("train:\n  stepz: 5\n"), "r.yaml:2: train.stepz: unknown key; did you mean 'steps'?");
  EXPECT_EQ(error_of("warmup: 5"), "r.yaml:1: warmup: unknown key; did you mean 'train.schedule.warmup'?");
  EXPECT_EQ(error_of("qqqqqq: 5"), "r.yaml:1: qqqqqq: unknown key");
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
            "r.yaml:3: train.schedule: [schedule] warmup; expected <= 100, got 500");
  EXPECT_EQ(error_of("name: a\ntrain: {}\nname: b"), "r.yaml:3: name: duplicate key; first given at line 1");
  EXPECT_THAT(error_of("train:\n  steps: [1, 2"), HasSubstr("not valid YAML"));
  EXPECT_THAT(error_of("a: 1\n---\nb: 2"), HasSubstr("r.yaml:3: expected one YAML document"));
  EXPECT_THAT(error_of("[a]: 1"), HasSubstr("a key must be a word"));
  EXPECT_THAT(error_of("name: !!python/object x"), HasSubstr("tag 'tag:yaml.org,2002:python/object'"));
}

TEST(Recipe, AnUnknownKeyIsReportedBeforeAMissingOne) {
  EXPECT_EQ(error_of("data: [{paht: a}]"), "r.yaml:1: data[0].paht: unknown key; did you mean 'path'?");
}

TEST(Recipe, AnchorsAndMergeKeysWork) {
  const auto r = parse<Recipe>(
      load_text("train: &t {steps: 5, sizes: &s [9]}\nmodel:\n  <<: *t\n  steps: 6\n  again: *s\n", "r"));
  EXPECT_EQ(to_json(r.model), nlohmann::json::parse(R"({"steps":6,"sizes":[9],"again":[9]})"));
  EXPECT_THAT(error_of("model: {<<: 3}"), HasSubstr("expected a section or a list of sections to merge"));
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

TEST(Recipe, OverridesReplaceAddAndReport) {
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

  EXPECT_EQ(override_error_of("train.stepz=3"), "--set: train.stepz: unknown key; did you mean 'steps'?");
  EXPECT_EQ(override_error_of("steps=3"), "--set: steps: unknown key; did you mean 'train.steps'?");
  EXPECT_EQ(override_error_of("trian.steps=3"), "--set: trian: unknown key; did you mean 'train'?");
  EXPECT_EQ(override_error_of("train.steps=x"), "--set: train.steps: expected an integer, got 'x'");
  EXPECT_EQ(override_error_of("train.steps.x=1"),
            "--set: train.steps.x: 'x' is below a value that is not a section");
  EXPECT_EQ(override_error_of("data.1.path=b"),
            "--set: data.1.path: expected an index from 0 to 0 into a list, got '1'");
  EXPECT_EQ(override_error_of("train.steps"), "--set: expected path=value, got 'train.steps'");
  EXPECT_EQ(override_error_of("train..steps=1"),
            "--set: 'train..steps' is not a path of keys joined by dots");
  EXPECT_THAT(override_error_of("train.steps=[1"), HasSubstr("--set: train.steps: not valid YAML"));
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

}  // namespace
}  // namespace axial::recipe
