// SPDX-License-Identifier: Apache-2.0
// Hugging Face folders: config.json with model.safetensors, or shards with model.safetensors.index.json.
// Read by load/, written by `export`. Names and shapes are the model folder's business
// (models::HuggingFaceAdapter); files are ours. axial_tokenizer.json is added, so that an exported folder
// works in score, generate and embed again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "axial/models/common/registry.h"

namespace axial::train {

/// How a folder is written.
struct HuggingFaceOptions {
  std::string family;                      ///< "gpt2", "llama", ...; "": the first the model can be
  int64_t shard_bytes = int64_t{5} << 30;  ///< size limit of one weight file
  bool overwrite = false;                  ///< replace a folder that is such an export, and nothing else
  std::filesystem::path source;            ///< where the model came from: never replaced; empty: nowhere
};

/// Write `model` (materialised) with its tokenizer (null: none). The folder appears complete or not at all.
/// With a tokenizer, config.json names its begin, end and padding ids. Returns the family. Throws
/// UnsupportedError (the family cannot express the model), ValueError (the folder exists, or is no export
/// that may be replaced), IoError.
std::string write_hugging_face(const std::filesystem::path& folder, const models::ModelRegistry& registry,
                               const models::Model& model, const nlohmann::json& tokenizer,
                               const HuggingFaceOptions& options = {});

/// A model from a folder, and its tokenizer's description (null: the folder has none).
struct HuggingFaceModel {
  models::Model model;
  nlohmann::json tokenizer;
};

/// Read a folder into a model materialised on the host; `dtype` absent takes that of the first floating
/// weight. Throws UnsupportedError for a family of no model, ValueError naming damage.
HuggingFaceModel read_hugging_face(const std::filesystem::path& folder, const models::ModelRegistry& registry,
                                   std::optional<at::ScalarType> dtype);

}  // namespace axial::train
