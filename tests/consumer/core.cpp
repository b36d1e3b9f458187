// SPDX-License-Identifier: Apache-2.0
// Uses the torch-free part of an installed Axial.
#include <cstdio>

#include "axial/core/recipe/recipe.h"

struct Options {
  int64_t steps = 1;
  template <class V>
  void fields(V& v) {
    v("steps", steps, "how many");
  }
};

int main() {
  const auto options = axial::recipe::parse<Options>(axial::recipe::load_text("steps: 42", "text"));
  std::printf("steps %lld\n", static_cast<long long>(options.steps));
  return options.steps == 42 ? 0 : 1;
}
