// SPDX-License-Identifier: Apache-2.0
// The recipe of a run: model, data and training in one YAML file. Read by train, eval and the tests.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "axial/core/recipe/recipe.h"
#include "axial/data/genome/genome.h"
#include "axial/models/common/registry.h"
#include "axial/parallel/mesh/mesh_options.h"
#include "axial/train/trainer/options.h"

namespace axial::train {

/// A whole recipe. `model` stays a tree, because its keys are the model folder's: "type" (default: decoder)
/// and that model's settings.
struct RunRecipe {
  recipe::Node model = recipe::Node::section();
  data::GenomeDataOptions data;
  TrainOptions train;
  parallel::MeshOptions parallel;

  template <class V>
  void fields(V& v) {
    v("model", model, "type (decoder) and the settings of that model", recipe::kRequired);
    v("data", data, "what is read and how it becomes rows");
    v("train", train, "how it is trained");
    v("parallel", parallel, "how ranks split the work (axial train --ranks N, or torchrun)");
  }
};

/// Read a recipe file and apply overrides ("train.steps=100"); `files` (from --data) replace data.files and
/// data.mixture. Throws RecipeError naming file, line and nearest key; IoError.
RunRecipe read_run_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                          const std::vector<std::string>& files);

/// The recipe with every path of data (files, patterns, folders, the cache) absolute: what a run saves, so
/// that it finds its data from any folder. A "~" stays, it means the same everywhere.
RunRecipe with_absolute_paths(RunRecipe recipe);

/// The recipe as text that reads back equal.
std::string resolved_text(const RunRecipe& recipe);

/// Help text: every key of a recipe, those of each registered model below `model:`.
std::string describe_recipe(const models::ModelRegistry& registry);

/// Build the recipe's model for a tokenizer: "vocab_size" follows from it unless set. Throws RecipeError with
/// the line of the setting at fault, ValueError when rows are longer than the model's positions.
models::Model build_model(const RunRecipe& recipe, const models::ModelRegistry& registry,
                          const data::Tokenizer& tokenizer);

/// What must not change when a run goes on: "key: saved, now" of the first differences. Steps, logging,
/// intervals, threads, ranks, and where files and caches lie may change; files of a mixture may be spelt
/// otherwise.
std::vector<std::string> recipe_conflicts(const RunRecipe& saved, const RunRecipe& now);

}  // namespace axial::train
