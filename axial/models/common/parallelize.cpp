// SPDX-License-Identifier: Apache-2.0
#include "axial/models/common/parallelize.h"

#include "axial/core/check/check.h"

namespace axial::models {

namespace {

// Parameters by block, of the heads together: they take the same place.
std::vector<std::vector<std::string>> names_of_blocks(const Model& model) {
  std::vector<std::vector<std::string>> names;
  for (const parallel::Block& block : model.trunk) names.push_back(block.parameters);
  names.emplace_back();
  for (const auto& [name, head] : model.heads) {
    names.back().insert(names.back().end(), head.parameters.begin(), head.parameters.end());
  }
  return names;
}

}  // namespace

void parallelize(Model& model, const ModelRegistry& registry, const parallel::Mesh& mesh,
                 const parallel::MeshOptions& options, int64_t row_length) {
  registry.at(model.type)
      .parallelize(model, mesh, {options.sequence_regions, options.replicate_vocabulary_below, row_length});
  const int64_t degree = parallel::pipe_degree(mesh);
  if (degree == 1) return;
  AXIAL_CHECK(!model.heads.empty(), "model", "model '{}' has no head; expected one, which ends a pipeline",
              model.type);
  model.stages = parallel::Stages::balanced(
      parallel::block_costs(model.blocks_with(model.heads.begin()->first), *model.parameters), degree,
      options.stages_per_rank);
  parallel::place_stages(*model.parameters, names_of_blocks(model), *model.stages, mesh);
}

}  // namespace axial::models
