// SPDX-License-Identifier: Apache-2.0
// Runs a decoder for python/tests/test_hugging_face.py, which compares with transformers.
//
//   axial_decoder_oracle import FOLDER           config.json + model.safetensors of Hugging Face -> our model
//   axial_decoder_oracle export FOLDER FAMILY    settings.json of ours -> a model, written as Hugging Face's
//   axial_decoder_oracle tokenizer FOLDER        prints what ids 5, 10 and 68 of axial_tokenizer.json mean
//
// The first two read FOLDER/inputs.safetensors (tokens, labels [B, L]) and write FOLDER/outputs.safetensors:
// logits, loss_sum, and "grad.<name>" under Hugging Face's names.
#include <ATen/ATen.h>

#include <cstdio>
#include <exception>
#include <filesystem>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/data/tokenizer/tokenizer.h"
#include "axial/models/common/registry.h"
#include "axial/train/safetensors/tensor_io.h"

namespace {

namespace fs = std::filesystem;
using axial::models::Model;
using axial::models::ModelEntry;
using axial::parallel::NamedTensors;
using NamedList = std::vector<std::pair<std::string, at::Tensor>>;

nlohmann::json read_json(const fs::path& path) { return nlohmann::json::parse(axial::read_file(path)); }

NamedList foreign_tensors(const ModelEntry& entry, const Model& model,
                          const axial::parallel::ParameterReaders& values, const std::string& family) {
  NamedList tensors;
  entry.hugging_face.export_weights(
      model.config, family, *model.parameters, values,
      [&](const std::string& name, const at::Tensor& tensor) { tensors.emplace_back(name, tensor); });
  return tensors;
}

/// One batch of whole rows through the trunk, both heads, and back.
void run(const fs::path& folder, const ModelEntry& entry, const Model& model, const std::string& family) {
  const axial::train::SafetensorsFile file(folder / "inputs.safetensors");
  const at::Tensor tokens = axial::train::read_tensor(file, "tokens");
  const int64_t rows = tokens.size(0), length = tokens.size(1);
  NamedTensors stream = {{"tokens", tokens},
                         {"labels", axial::train::read_tensor(file, "labels")},
                         {"positions", at::arange(length, at::kLong).repeat({rows, 1})},
                         {"segments", at::arange(rows + 1, at::kLong) * length},
                         {"sample_ids", at::arange(rows, at::kLong)},
                         {"row_positions", at::arange(length, at::kLong)}};
  for (const auto& block : model.trunk) {
    for (auto& [name, tensor] : axial::parallel::run_block(block, stream, {})) stream[name] = tensor;
  }
  NamedList outputs = {
      {"logits", axial::parallel::run_block(model.heads.at("logits"), stream, {}).at("logits").detach()}};
  const at::Tensor loss = axial::parallel::run_block(model.heads.at("loss"), stream, {}).at("loss_sum");
  loss.backward();
  outputs.emplace_back("loss_sum", loss.detach());

  // Gradients take the place of values, so that the weight exporter names them.
  axial::parallel::ParameterReaders gradients;
  for (const auto& row : model.parameters->rows()) {
    AXIAL_CHECK(row->value.grad().defined(), "oracle", "'{}' has no gradient", row->spec.name);
    gradients[row->spec.name] = [gradient = row->value.grad()] { return gradient; };
  }
  for (auto& [name, tensor] : foreign_tensors(entry, model, gradients, family))
    outputs.emplace_back("grad." + name, tensor);
  axial::train::write_safetensors(folder / "outputs.safetensors", outputs);
}

void import_folder(const fs::path& folder, const ModelEntry& entry) {
  const nlohmann::json config = read_json(folder / "config.json");
  const axial::train::SafetensorsFile file(folder / "model.safetensors");
  Model model = entry.build(entry.hugging_face.import_config(config));
  model.parameters->materialize(at::kCPU, at::kFloat, 0);
  const axial::models::ForeignWeights weights{
      file.header().names(),
      [&](const std::string& name) { return axial::train::describe_tensor(file, name); },
      [&](const std::string& name) { return axial::train::read_tensor(file, name); }};
  axial::parallel::fill_parameters(*model.parameters,
                                   entry.hugging_face.import_weights(config, weights, *model.parameters));
  run(folder, entry, model, config.at("model_type").get<std::string>());
}

void export_folder(const fs::path& folder, const ModelEntry& entry, const std::string& family) {
  Model model = entry.build(read_json(folder / "settings.json"));
  model.parameters->materialize(at::kCPU, at::kFloat, 17);
  {
    // Biases and norms start as constants; move all, so that a lost or swapped one shows.
    at::NoGradGuard no_grad;
    double phase = 0;
    for (const auto& row : model.parameters->rows()) {
      const at::Tensor index = at::arange(row->value.numel(), at::kDouble).view(row->value.sizes());
      row->value.add_(0.1 * at::sin(index * 1.7 + phase++));
    }
  }
  axial::write_file_atomically(folder / "config.json",
                               entry.hugging_face.export_config(model.config, family).dump(2) + "\n");
  axial::train::write_safetensors(
      folder / "model.safetensors",
      foreign_tensors(entry, model, axial::parallel::readers_of(*model.parameters), family),
      {{"format", "pt"}});
  run(folder, entry, model, family);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    const auto registry = axial::models::all_models();
    const ModelEntry& entry = registry.at("decoder");
    if (arguments.size() == 2 && arguments[0] == "import") {
      import_folder(arguments[1], entry);
    } else if (arguments.size() == 3 && arguments[0] == "export") {
      export_folder(arguments[1], entry, arguments[2]);
    } else if (arguments.size() == 2 && arguments[0] == "tokenizer") {
      const auto tokenizer =
          axial::data::tokenizer_from_json(read_json(fs::path(arguments[1]) / "axial_tokenizer.json"));
      std::printf("%s\n", tokenizer->decode(std::vector<int32_t>{5, 10, 68}).c_str());
    } else {
      std::fprintf(stderr,
                   "usage: axial_decoder_oracle import FOLDER | export FOLDER FAMILY | tokenizer FOLDER\n");
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
