// SPDX-License-Identifier: Apache-2.0
// What a model is to the rest of the house, and how one is found by name. A model folder defines
// `register_<model>(ModelRegistry&)`; the build collects them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "axial/core/recipe/recipe.h"
#include "axial/parallel/block/block.h"
#include "axial/parallel/parameter_table/logical.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/pipeline/stages.h"
#include "axial/parallel/placement/placement.h"
#include "axial/parallel/position_table/position_table.h"
#include "axial/parallel/step/runner.h"
#include "axial/parallel/tensor/stream.h"

namespace axial::models {

/// A built model: parameters (declared, not yet materialised) and blocks over them.
struct Model {
  std::string type;       ///< name in the registry
  nlohmann::json config;  ///< complete configuration; building from it again gives an equal model
  std::unique_ptr<parallel::ParameterTable> parameters;
  std::vector<parallel::Block> trunk;            ///< batch tensors -> "hidden"
  std::map<std::string, parallel::Block> heads;  ///< "loss", "log_likelihood", "logits", ...
  std::vector<std::string> batch_names;          ///< tensors a batch brings
  std::shared_ptr<parallel::TensorCut> cut;      ///< what ModelEntry::parallelize did; its blocks read it
  std::shared_ptr<parallel::PositionCut> position_cut;  ///< likewise; null: no table of positions
  /// Of the trunk and one head, over ranks of `pipe`; none: every rank runs all blocks.
  std::optional<parallel::Stages> stages;

  /// The trunk followed by one head, or the trunk alone for ""; throws ValueError with the nearest name for
  /// an unknown head.
  std::vector<parallel::Block> blocks_with(const std::string& head) const;
  /// A runner of these blocks, over their stages. The parameters must have values.
  parallel::StepRunner runner_with(const std::string& head, parallel::Communicator* ranks = nullptr) const;
};

/// The weights of a Hugging Face folder, tensor by tensor.
struct ForeignWeights {
  std::vector<std::string> names;
  std::function<at::Tensor(const std::string& name)> describe;  ///< on Meta: shape and dtype
  std::function<at::Tensor(const std::string& name)> read;
};

/// How a model exchanges weights with Hugging Face folders, one tensor at a time. Pure functions of configs
/// and tensors; files are read and written by train.
struct HuggingFaceAdapter {
  /// config.json -> our config; throws UnsupportedError naming the field that has no equivalent.
  std::function<nlohmann::json(const nlohmann::json& hf_config)> import_config;
  /// Our config -> config.json of `family` ("gpt2", "gpt_neox", "bloom", "llama"); throws UnsupportedError
  /// naming the setting the family cannot express.
  std::function<nlohmann::json(const nlohmann::json& config, const std::string& family)> export_config;
  /// How each parameter that `table` declares is made of foreign tensors. Throws, before anything is read,
  /// ValueError naming a tensor that is missing, misshapen or left over, UnsupportedError for integers.
  std::function<parallel::ParameterReaders(const nlohmann::json& hf_config, const ForeignWeights& weights,
                                           const parallel::ParameterTable& table)>
      import_weights;
  /// Call `put(name, tensor)` for every foreign tensor of `family`, each parameter that `table` declares read
  /// once; on Meta where the readers give Meta tensors.
  std::function<void(const nlohmann::json& config, const std::string& family,
                     const parallel::ParameterTable& table, const parallel::ParameterReaders& weights,
                     const std::function<void(const std::string&, const at::Tensor&)>& put)>
      export_weights;
  /// Families that export_config accepts.
  std::vector<std::string> families;
};

/// Cut a model over a mesh, as ModelEntry::parallelize.
using Parallelize =
    std::function<void(Model& model, const parallel::Mesh& mesh, const parallel::ParallelOptions& options)>;

/// Of models without a table of placements: throws UnsupportedError for more than one rank along `tensor`.
void refuse_tensor_axis(Model& model, const parallel::Mesh& mesh, const parallel::ParallelOptions& options);

/// What a model folder registers.
struct ModelEntry {
  /// Check the config strictly (unknown key: ValueError with the nearest) and build.
  std::function<Model(const nlohmann::json& config)> build;
  /// Place the parameters of a built model over the `tensor` axis of a mesh; call it before they are
  /// materialised. One rank along it, or no such axis: nothing changes. Local. Throws ValueError naming the
  /// setting that does not fit the mesh.
  Parallelize parallelize = refuse_tensor_axis;
  HuggingFaceAdapter hugging_face;
  /// The settings that `build` takes, for `axial train --keys`; empty: not listed.
  std::vector<recipe::Field> fields = {};
  /// Settings that weights do not depend on: a model that takes another's may have others.
  std::vector<std::string> training_settings = {};
  /// Numbers that may be larger when a run goes on: rows that its checkpoint lacks start as new ones.
  std::vector<std::string> growing_settings = {};
};

/// Models by name.
class ModelRegistry {
 public:
  void add(const std::string& type, ModelEntry entry);
  /// Throws ValueError with the nearest name.
  const ModelEntry& at(const std::string& type) const;
  std::vector<std::string> types() const;

 private:
  std::map<std::string, ModelEntry> entries_;
};

/// Generated from the folders of axial/models.
void register_all(ModelRegistry& registry);
/// All models of this build.
ModelRegistry all_models();

}  // namespace axial::models
