// SPDX-License-Identifier: Apache-2.0
// The `parallel:` section of a recipe, and the mesh that it names.
#pragma once

#include <cstdint>

#include "axial/parallel/mesh/mesh.h"
#include "axial/parallel/mesh/pipe_schedule.h"

namespace axial::parallel {

/// Degrees of the axes. Ranks that are neighbours (of one machine) differ along tensor first, then along
/// ulysses: those talk most.
struct MeshOptions {
  int64_t data = 0;
  int64_t pipe = 1;
  int64_t ring = 1;
  int64_t ulysses = 1;
  int64_t tensor = 1;
  int64_t zero = 0;
  bool sequence_regions = false;
  PipeSchedule pipe_schedule = PipeSchedule::kOneForwardOneBackward;
  int64_t stages_per_rank = 1;
  int64_t replicate_vocabulary_below = 1024;

  template <class V>
  void fields(V& v) {
    v("data", data, "ranks that split the rows of a batch; 0: all that the other axes leave");
    v("pipe", pipe, "ranks that split the blocks");
    v("ring", ring, "ranks that split the sequence and pass keys and values around");
    v("ulysses", ulysses, "ranks that split the sequence, and the heads inside attention");
    v("tensor", tensor, "ranks that split heads, features and vocabulary");
    v("zero", zero, "ZeRO stage: 1 shares optimizer states, 2 gradients too, 3 weights too");
    v("sequence_regions", sequence_regions, "tensor ranks split the sequence between their products");
    v("replicate_vocabulary_below", replicate_vocabulary_below,
      "vocabularies of fewer tokens are not cut over tensor");
    v("pipe_schedule", pipe_schedule, "order of a pipeline's work: 1f1b holds the fewest micro-batches");
    v("stages_per_rank", stages_per_rank,
      "pieces of the blocks that a pipe rank has: more of them idle less");
  }
  void validate() const;  ///< throws ValueError naming the setting
};

/// The mesh for this many ranks; throws ValueError with all numbers when the degrees do not fit.
Mesh make_mesh(const MeshOptions& options, int64_t world_size, int64_t rank);

}  // namespace axial::parallel
