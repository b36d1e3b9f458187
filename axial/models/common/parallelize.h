// SPDX-License-Identifier: Apache-2.0
// A built model over a mesh: what commands and trainers call before parameters get values.
#pragma once

#include "axial/models/common/registry.h"
#include "axial/parallel/mesh/mesh_options.h"

namespace axial::models {

/// Cut a built model over all axes but those of the batch: `tensor` by the model's own table, `pipe` into
/// stages of about equal numbers of parameters, on which any of its heads may follow. ZeRO comes after it
/// (partition_parameters). With a `row_length` a learned table of positions is cut over ring and ulysses, as
/// rows of that length are; 0: every rank has all of it. Local. Throws ValueError naming the setting or
/// degree that does not fit.
void parallelize(Model& model, const ModelRegistry& registry, const parallel::Mesh& mesh,
                 const parallel::MeshOptions& options, int64_t row_length = 0);

}  // namespace axial::models
