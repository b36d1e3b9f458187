// SPDX-License-Identifier: Apache-2.0
// Placement of a model's parameters over `tensor` as a table: name pattern -> how it is cut. A model writes
// its table in parallelize.cpp; place_parameters turns it into holdings, axes and shared rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "axial/parallel/layout/interval.h"
#include "axial/parallel/mesh/mesh.h"
#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::parallel {

/// The mesh axis over which heads, features and vocabulary are cut.
inline constexpr const char* kTensorAxis = "tensor";

/// Ranks along `tensor`; 1 for a mesh without that axis.
int64_t tensor_degree(const Mesh& mesh);

/// How a model is cut over a mesh.
struct ParallelOptions {
  /// Keep the stream between and inside layers cut along the sequence over `tensor` (Korthikanti et al.,
  /// 2022): norms, dropout and residuals on 1/t of the positions. Off: every rank has all of them.
  bool sequence_regions = false;
  /// Vocabularies of fewer tokens are replicated: two all-reduces cost more than the rows. 0: always cut.
  int64_t replicate_vocabulary_below = 1024;
  /// Places of a row: a table of positions is cut over ring and ulysses as rows are. 0: every rank has all.
  int64_t row_length = 0;
};

/// How a parameter lies over `tensor`.
struct Placement {
  enum class Kind {
    kStream,  ///< replicated, applied to the stream: with sequence regions its gradient is partial
    kColumn,  ///< dim 0 cut: a weight [out, in] and its bias [out] with their outputs
    kRow,     ///< dim 1 cut: a weight [out, in] with its inputs
  };
  Kind kind = Kind::kStream;
  Intervals held;                       ///< of the cut dim, on this rank
  std::vector<SharedRows> shared_rows;  ///< of kColumn

  static Placement stream() { return {}; }
  static Placement column(Intervals held, std::vector<SharedRows> shared_rows = {});
  static Placement row(Intervals held);
};

/// One line of a model's table. In a pattern '*' stands for any characters.
struct PlacementRule {
  std::string pattern;
  Placement placement;
};

/// Set holding, sharded_axes, partial_axes and shared_rows of every parameter from the first rule whose
/// pattern matches its name. Call it before the table is materialised. Local. Throws ValueError for a
/// parameter that no rule matches, that has no such dim, or that has a value already.
void place_parameters(ParameterTable& parameters, const std::vector<PlacementRule>& rules,
                      const ParallelOptions& options);

}  // namespace axial::parallel
