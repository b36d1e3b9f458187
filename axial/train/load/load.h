// SPDX-License-Identifier: Apache-2.0
// "Whatever is a model": a run folder, a checkpoint folder or a Hugging Face folder, as eval, score, embed,
// generate and export take it.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "axial/models/common/registry.h"
#include "axial/parallel/mesh/mesh_options.h"

namespace axial::train {

/// Which checkpoint of a run.
enum class WhichCheckpoint {
  kBest,  ///< smallest validation loss; the newest when none was validated
  kLast,  ///< the newest
};

/// What is wanted.
struct LoadOptions {
  std::optional<at::ScalarType> dtype;  ///< absent: as stored
  WhichCheckpoint which = WhichCheckpoint::kBest;
  /// Ranks that hold the model together, which outlive it, and how they split it (sequence_regions, which
  /// save what only training keeps, are left out). The first verifies a checkpoint, each reads its part; of a
  /// Hugging Face folder the parameters that it holds something of, one at a time. Null: one rank.
  parallel::Communicator* ranks = nullptr;
  parallel::MeshOptions parallel;
};

/// A model ready for inference: materialised on the host, no optimizer state; or one that was described.
struct LoadedModel {
  models::Model model;
  parallel::Communicator* ranks = nullptr;  ///< that the model is split over
  nlohmann::json tokenizer;                 ///< description; null when the folder has none
  std::string source;                       ///< for messages: what was loaded from where
  std::optional<int64_t> step;
  std::optional<double> validation_loss;
  nlohmann::json data;  ///< identifies the training data (RunState::data); null outside of runs
  // Of describe_model:
  parallel::ParameterReaders weights;  ///< the logical parameters, of which none is in memory
  std::string damage;                  ///< why they cannot be read; empty: they can
};

/// Of a run folder whose best checkpoint is damaged the newest whole one is taken, with a warning that names
/// the damaged file; a checkpoint that was named itself is taken or refused. Throws ValueError that lists
/// what was looked for when `path` is none of the three, and the errors of checkpoint.h and hugging_face.h.
LoadedModel load_model(const std::filesystem::path& path, const models::ModelRegistry& registry,
                       const LoadOptions& options = {});

/// The same without the weights: parameters are declared, not materialised, and whole on every rank. Every
/// file of a checkpoint is verified all the same; when none is whole, a readable one is described and
/// `damage` says why.
LoadedModel describe_model(const std::filesystem::path& path, const models::ModelRegistry& registry,
                           const LoadOptions& options = {});

}  // namespace axial::train
