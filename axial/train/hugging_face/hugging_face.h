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
#include <string>

#include "axial/models/common/registry.h"

namespace axial::train {

/// How a folder is written.
struct HuggingFaceOptions {
  std::string family;                      ///< "gpt2", "llama", ...; "": the first the model can be
  int64_t shard_bytes = int64_t{5} << 30;  ///< size limit of one weight file
  at::ScalarType dtype = at::kFloat;       ///< of the written weights
  bool overwrite = false;                  ///< replace a folder that is such an export, and nothing else
  std::filesystem::path source;            ///< where the model came from: never replaced; empty: nowhere
};

/// Write `model` (declared) whose parameters are what `weights` read, with its tokenizer (null: none). One
/// parameter at a time is in memory. The folder appears complete or not at all. With a tokenizer, config.json
/// names its begin, end and padding ids. Returns the family. Throws UnsupportedError (the family cannot
/// express the model), ValueError (the folder exists, or is no export that may be replaced), IoError.
std::string write_hugging_face(const std::filesystem::path& folder, const models::ModelRegistry& registry,
                               const models::Model& model, const parallel::ParameterReaders& weights,
                               const nlohmann::json& tokenizer, const HuggingFaceOptions& options = {});

/// A model in a folder.
struct HuggingFaceModel {
  models::Model model;                 ///< declared, not materialised
  parallel::ParameterReaders weights;  ///< keep the files mapped
  at::ScalarType dtype = at::kFloat;   ///< of the first floating weight
  nlohmann::json tokenizer;            ///< its description; null: the folder has none
};

/// Open a folder; weights are read when they are asked for. Throws UnsupportedError for a family of no model,
/// ValueError naming damage: tensors that are missing, left over or misshapen.
HuggingFaceModel open_hugging_face(const std::filesystem::path& folder,
                                   const models::ModelRegistry& registry);

}  // namespace axial::train
