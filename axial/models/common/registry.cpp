// SPDX-License-Identifier: Apache-2.0
// Lookup of models by name and of heads in a built model, with the nearest name in every error.
#include "axial/models/common/registry.h"

#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::models {

std::vector<parallel::Block> Model::blocks_with(const std::string& head) const {
  if (head.empty()) return trunk;
  const auto found = heads.find(head);
  if (found == heads.end()) {
    std::vector<std::string> names;
    for (const auto& [name, block] : heads) names.push_back(name);
    fail("model", "unknown head of model '{}'; expected one of {}, got '{}'{}", type, fmt::join(names, ", "),
         head, did_you_mean(head, names));
  }
  std::vector<parallel::Block> blocks = trunk;
  blocks.push_back(found->second);
  return blocks;
}

parallel::StepRunner Model::runner_with(const std::string& head, parallel::Communicator* ranks) const {
  parallel::StepRunner runner(blocks_with(head), *parameters, batch_names, ranks);
  if (stages) runner.set_stages(head.empty() ? stages->without_last_block() : *stages);
  return runner;
}

void refuse_tensor_axis(Model& model, const parallel::Mesh& mesh, const parallel::ParallelOptions&) {
  const int64_t degree = parallel::tensor_degree(mesh);
  if (degree == 1) return;
  fail<UnsupportedError>("model", "model '{}' cannot be cut over 'tensor'; expected 1 rank along it, got {}",
                         model.type, degree);
}

void ModelRegistry::add(const std::string& type, ModelEntry entry) {
  AXIAL_CHECK(entries_.emplace(type, std::move(entry)).second, "model", "model type '{}' is registered twice",
              type);
}

const ModelEntry& ModelRegistry::at(const std::string& type) const {
  const auto found = entries_.find(type);
  if (found == entries_.end()) {
    fail("model", "unknown model type; expected one of {}, got '{}'{}", fmt::join(types(), ", "), type,
         did_you_mean(type, types()));
  }
  return found->second;
}

std::vector<std::string> ModelRegistry::types() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

ModelRegistry all_models() {
  ModelRegistry registry;
  register_all(registry);
  return registry;
}

}  // namespace axial::models
