// SPDX-License-Identifier: Apache-2.0
// Options structs for the tests of recipes, and what parsing them says of a text or an override.
#pragma once

#include "axial/core/recipe/recipe.h"

namespace axial::recipe {

enum class Kind { kCosine, kLinear };
template <>
struct EnumNames<Kind> {
  static constexpr std::pair<std::string_view, Kind> names[] = {{"cosine", Kind::kCosine},
                                                                {"linear", Kind::kLinear}};
};

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

inline std::string error_of(std::string_view text) {
  try {
    parse<Recipe>(load_text(text, "r.yaml"));
  } catch (const RecipeError& e) {
    return e.what();
  }
  return "no error";
}

inline std::string override_error_of(const std::string& assignment) {
  try {
    Node root = load_text("train: {steps: 5}\ndata: [{path: a}]", "r.yaml");
    apply_override(root, assignment);
    parse<Recipe>(root);
  } catch (const RecipeError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace axial::recipe
