// SPDX-License-Identifier: Apache-2.0
// Reading, resolving and comparing run recipes.
#include "axial/train/recipe/run_recipe.h"

#include "axial/core/check/check.h"
#include "axial/train/checkpoint/checkpoint.h"

namespace axial::train {
namespace {

// Settings that do not decide what is learned in which order.
constexpr const char* kFree[] = {"/train/steps",          "/train/log_every", "/train/checkpoint_every",
                                 "/train/validate_every", "/train/threads",   "/train/validate_rows",
                                 "/train/keep_last",      "/data/files",      "/data/cache",
                                 "/data/validation_files"};

nlohmann::json binding_part(const RunRecipe& recipe) {
  nlohmann::json value = recipe::options_to_json(recipe);
  for (const char* path : kFree) {
    const nlohmann::json::json_pointer pointer(path);
    if (value.contains(pointer)) value[pointer.parent_pointer()].erase(pointer.back());
  }
  return value;
}

}  // namespace

RunRecipe read_run_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                          const std::vector<std::string>& files) {
  recipe::Node root = recipe::load_file(path);
  for (const std::string& assignment : overrides) recipe::apply_override(root, assignment);
  if (!files.empty()) {
    recipe::Node list = recipe::Node::list();
    for (const std::string& file : files) list.items.push_back(recipe::Node::text(file));
    if (root.find("data") == nullptr) root.set("data", recipe::Node::section());
    root.find("data")->set("files", std::move(list));
  }
  return recipe::parse<RunRecipe>(root);
}

std::string resolved_text(const RunRecipe& recipe) { return recipe::dump(recipe); }

models::Model build_model(const RunRecipe& recipe, const models::ModelRegistry& registry,
                          const data::Tokenizer& tokenizer) {
  return recipe::with_locations(recipe.model, "model", [&] {
    nlohmann::json settings = recipe::to_json(recipe.model);
    const std::string type = settings.value("type", "decoder");
    settings.erase("type");
    if (!settings.contains("vocab_size")) settings["vocab_size"] = tokenizer.vocab_size();
    models::Model model = registry.at(type).build(settings);
    const int64_t vocabulary = model.config.value("vocab_size", tokenizer.vocab_size());
    AXIAL_CHECK(vocabulary >= tokenizer.vocab_size(), "recipe",
                "vocab_size is below the tokenizer's; expected at least {}, got {}", tokenizer.vocab_size(),
                vocabulary);
    const int64_t longest = model.config.value("max_positions", recipe.data.sequence_length);
    AXIAL_CHECK(recipe.data.sequence_length <= longest, "recipe",
                "data.sequence_length is above the model's max_positions; expected at most {}, got {}",
                longest, recipe.data.sequence_length);
    return model;
  });
}

std::vector<std::string> recipe_conflicts(const RunRecipe& saved, const RunRecipe& now) {
  return json_differences(binding_part(saved), binding_part(now), 5);
}

}  // namespace axial::train
