// SPDX-License-Identifier: Apache-2.0
// `axial info`: what a model folder holds.
#include <fmt/format.h>

#include <functional>
#include <numeric>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/text/table.h"
#include "axial/core/text/text.h"

namespace axial::cli {
namespace {

struct Arguments {
  ModelArguments model;
  bool parameters = false;
  bool json = false;
};

nlohmann::json summary_of(const train::LoadedModel& loaded) {
  nlohmann::json summary{{"source", loaded.source},
                         {"type", loaded.model.type},
                         {"config", loaded.model.config},
                         {"tokenizer", loaded.tokenizer},
                         {"num_parameters", loaded.model.parameters->num_elements()}};
  if (loaded.step) summary["step"] = *loaded.step;
  if (loaded.validation_loss) summary["validation_loss"] = *loaded.validation_loss;
  if (!loaded.damage.empty()) summary["damage"] = loaded.damage;
  return summary;
}

void print_config(const nlohmann::json& config, const std::string& indent) {
  for (const auto& [key, value] : config.items()) {
    if (value.is_object()) {
      fmt::print("{}{}:\n", indent, key);
      print_config(value, indent + "  ");
    } else {
      fmt::print("{}{}: {}\n", indent, key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

void print_parameters(const parallel::ParameterTable& parameters) {
  TextTable table({{"parameter"}, {"shape"}, {"elements", Align::kRight}});
  for (const auto& row : parameters.rows()) {
    const auto& shape = row->spec.shape;
    const int64_t elements = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    table.add_row({row->spec.name, fmt::format("[{}]", fmt::join(shape, ", ")), with_commas(elements)});
  }
  fmt::print("\n{}", table.render());
}

int run(const Arguments& arguments) {
  const auto loaded = arguments.model.describe();
  if (arguments.json) {
    fmt::print("{}\n", summary_of(loaded).dump(1));
    return 0;
  }
  fmt::print("{}\n", loaded.source);
  if (!loaded.damage.empty()) fmt::print("damaged, cannot be loaded: {}\n", loaded.damage);
  fmt::print("model: {}, {} parameters\n", loaded.model.type,
             with_commas(loaded.model.parameters->num_elements()));
  if (loaded.step) fmt::print("step: {}\n", *loaded.step);
  if (loaded.validation_loss) fmt::print("validation loss: {:.4f}\n", *loaded.validation_loss);
  fmt::print("config:\n");
  print_config(loaded.model.config, "  ");
  fmt::print("tokenizer:{}\n", loaded.tokenizer.is_null() ? " none" : "");
  if (!loaded.tokenizer.is_null()) print_config(loaded.tokenizer, "  ");
  if (arguments.parameters) print_parameters(*loaded.model.parameters);
  return 0;
}

}  // namespace

void register_info(CommandRegistry& registry) {
  registry.add("info", "Show what a model folder holds", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    arguments->model.declare(command);
    command.add_flag("--parameters", arguments->parameters, "list every parameter with its shape");
    command.add_flag("--json", arguments->json, "print one JSON object");
    command.footer("Example:\n  axial info runs/yeast --parameters");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
