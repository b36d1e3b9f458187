// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes load or fail with RecipeError, and what loads survives dump and reload.
#include <cstdlib>

#include "axial/core/recipe/recipe.h"

namespace {

using namespace axial::recipe;

struct Inner {
  int64_t count = 1;
  std::map<std::string, double> weights;
  template <class V>
  void fields(V& v) {
    v("a", count, "an integer");
    v("w", weights, "numbers by name");
  }
};

struct Outer {
  std::optional<double> rate;
  std::vector<Inner> inner;
  std::string text;
  bool flag = false;
  Node any;
  template <class V>
  void fields(V& v) {
    v("r", rate, "a number");
    v("i", inner, "sections");
    v("t", text, "text");
    v("f", flag, "a flag");
    v("m", any, "anything");
  }
};

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Node root = load_text(text, "fuzz");
    const std::string yaml = to_yaml(root);
    require(to_yaml(load_text(yaml, "again")) == yaml);
    const Outer options = parse<Outer>(root);
    const std::string dumped = dump(options);
    require(dump(parse<Outer>(load_text(dumped, "dump"))) == dumped);
    require(to_json(root).is_structured() || root.kind == Node::Kind::kNull);
  } catch (const RecipeError&) {
  }
  try {
    Node root = load_text("a: {b: [1, {c: 2}]}", "base");
    apply_override(root, text);
  } catch (const RecipeError&) {
  }
  return 0;
}

/// Where testing/fuzz/short_run.cpp begins.
std::vector<std::string> fuzz_seeds() {
  return {"r: 0.5\ni:\n  - {a: 3, w: {x: 1, y: .inf}}\n  - a: -7\nt: \"a\\tb\"\nf: true\nm: {k: [1, null]}\n",
          "m: &x {a: 1}\ni: []\nr: null\n# note\nt: 'it''s'\nf: false\n",
          "m:\n  <<: &b {c: [~, 2.0]}\n  d: *b\nt: |\n  two\n  lines\n", "a.b.1.c=[1, {x: y}]",
          "a.new.key=0x1F"};
}
