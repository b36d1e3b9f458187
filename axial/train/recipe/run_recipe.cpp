// SPDX-License-Identifier: Apache-2.0
// Reading, resolving and comparing run recipes.
#include "axial/train/recipe/run_recipe.h"

#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/train/checkpoint/checkpoint.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefaultModel = "decoder";

// Settings that do not decide what is learned in which order.
constexpr const char* kFree[] = {"/train/steps",
                                 "/train/log_every",
                                 "/train/checkpoint_every",
                                 "/train/validate_every",
                                 "/train/threads",
                                 "/train/validate_rows",
                                 "/train/keep_last",
                                 "/data/files",
                                 "/data/cache",
                                 "/data/validation_files",
                                 "/parallel",
                                 "/train/offload_checkpoints",
                                 "/train/partition_activations",
                                 "/train/offload_optimizer",
                                 "/train/offload_parameters",
                                 "/train/offload_folder",
                                 "/train/shard_positions",
                                 "/model/max_positions",
                                 "/model/attention_mask/host_tokens"};

// A pattern may not take a folder named "run[1]" of the working directory for a part of itself.
std::string escaped(const std::string& folder) {
  std::string out;
  for (const char c : folder) {
    if (std::string_view("*?[\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// As data/input reads names: what exists is literal, anything else with * ? [ is a pattern, ~ is the home.
std::string absolute_path(const std::string& text) {
  std::error_code error;
  if (text.empty() || text.front() == '/') return text;
  const bool literal = fs::exists(text, error);
  if (!literal && text.front() == '~') return text;
  const fs::path path(text);
  // Without ".." normalising is safe: ".." behind a symbolic link would lead elsewhere.
  const bool climbs = std::find(path.begin(), path.end(), "..") != path.end();
  const std::string tail = climbs ? text : path.lexically_normal().string();
  const bool pattern = !literal && text.find_first_of("*?[") != std::string::npos;
  const std::string here = fs::current_path().string();
  if (tail == ".") return here;
  return (fs::path(pattern ? escaped(here) : here) / tail).string();
}

void make_absolute(std::vector<std::string>& files) {
  for (std::string& file : files) file = absolute_path(file);
}

nlohmann::json binding_part(const RunRecipe& recipe) {
  nlohmann::json value = recipe::options_to_json(with_absolute_paths(recipe));
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
    recipe::Node& data = *root.find("data");
    std::erase_if(data.entries, [](const recipe::Node::Entry& entry) { return entry.key == "mixture"; });
    data.set("files", std::move(list));
  }
  return recipe::parse<RunRecipe>(root);
}

RunRecipe with_absolute_paths(RunRecipe recipe) {
  make_absolute(recipe.data.files);
  make_absolute(recipe.data.validation_files);
  for (data::GenomeGroup& group : recipe.data.mixture) make_absolute(group.files);
  recipe::Node* mask = recipe.model.find("attention_mask");
  recipe::Node* file = mask == nullptr ? nullptr : mask->find("file");
  if (file != nullptr && !file->scalar.empty()) *file = recipe::Node::text(absolute_path(file->scalar));
  if (!recipe.train.offload_folder.empty())
    recipe.train.offload_folder = absolute_path(recipe.train.offload_folder);
  if (recipe.data.cache != "none") recipe.data.cache = absolute_path(recipe.data.cache);
  return recipe;
}

std::string resolved_text(const RunRecipe& recipe) { return recipe::dump(recipe); }

std::string describe_recipe(const models::ModelRegistry& registry) {
  const std::vector<std::string> types = registry.types();
  std::vector<recipe::Field> all;
  for (recipe::Field& field : recipe::fields_of<RunRecipe>()) {
    const bool model = field.path == "model";
    all.push_back(std::move(field));
    if (!model) continue;
    all.back().is_section = true;
    all.back().doc = "what is trained; the keys below type are those of each type";
    all.push_back({"model.type", fmt::format("{}", fmt::join(types, " | ")), kDefaultModel, "which model"});
    for (const std::string& type : types) {
      for (recipe::Field key : registry.at(type).fields) {
        key.path = "model." + key.path;
        if (types.size() > 1) key.doc = fmt::format("{}: {}", type, key.doc);
        all.push_back(std::move(key));
      }
    }
  }
  return recipe::describe_fields(all);
}

models::Model build_model(const RunRecipe& recipe, const models::ModelRegistry& registry,
                          const data::Tokenizer& tokenizer) {
  return recipe::with_locations(recipe.model, "model", [&] {
    nlohmann::json settings = recipe::to_json(recipe.model);
    const std::string type = settings.value("type", kDefaultModel);
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
