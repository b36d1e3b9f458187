// SPDX-License-Identifier: Apache-2.0
// `axial export`: a model as a Hugging Face folder that transformers loads.
#include <fmt/format.h>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/check/check.h"
#include "axial/train/hugging_face/hugging_face.h"

namespace axial::cli {
namespace {

struct Arguments {
  ModelArguments model;
  std::filesystem::path out;
  train::HuggingFaceOptions options;
};

int run(const Arguments& arguments) {
  AXIAL_CHECK(!arguments.out.empty(), "export", "--out; expected the name of a folder, got none");
  const train::LoadedModel described = arguments.model.describe();
  AXIAL_CHECK(described.damage.empty(), "export", "{}", described.damage);
  train::HuggingFaceOptions options = arguments.options;
  options.source = arguments.model.path;
  options.dtype = arguments.model.dtype();
  const std::string family = train::write_hugging_face(arguments.out, models::all_models(), described.model,
                                                       described.weights, described.tokenizer, options);
  fmt::print("{} -> {} ({})\n", described.source, arguments.out.string(), family);
  return 0;
}

}  // namespace

void register_export(CommandRegistry& registry) {
  registry.add("export", "Write a model as a Hugging Face folder", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    arguments->model.declare(command);
    declare_out(command, arguments->out, "new folder");
    command
        .add_option("--family", arguments->options.family,
                    "gpt2, gpt_neox, bloom or llama; default: what fits")
        ->check(CLI::IsMember({"gpt2", "gpt_neox", "bloom", "llama"}));
    command.add_option("--shard-bytes", arguments->options.shard_bytes, "size limit of one weight file")
        ->transform(CLI::AsSizeValue(false))
        ->capture_default_str();
    command.add_flag("--overwrite", arguments->options.overwrite,
                     "replace an earlier export in that folder; nothing else is");
    command.footer(
        "Examples:\n"
        "  axial export runs/yeast --out yeast_hf\n"
        "  axial export runs/yeast --out yeast_hf --precision bf16 --shard-bytes 2GB\n"
        "then in Python:\n"
        "  transformers.AutoModelForCausalLM.from_pretrained('yeast_hf')");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
