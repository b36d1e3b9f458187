// SPDX-License-Identifier: Apache-2.0
// Blocks over the ranks of the `pipe` axis: which rank runs which, and which parameters it therefore holds.
// Models are cut by it before their parameters get values; plans and the runner ask it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/mesh/mesh.h"
#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::parallel {

/// The mesh axis over which blocks are cut.
inline constexpr const char* kPipeAxis = "pipe";

/// Consecutive blocks [begin, end).
struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;

  friend bool operator==(const BlockRange&, const BlockRange&) = default;
};

/// Stages of consecutive blocks. Stage s runs on rank s % ranks of `pipe`; more stages than ranks are
/// interleaved (Narayanan et al., 2021).
struct Stages {
  std::vector<BlockRange> ranges;
  int64_t ranks = 1;

  /// One stage on one rank.
  static Stages whole(int64_t num_blocks);
  /// `ranks * per_rank` stages of at least one block, cut so that the largest sum of costs of a stage is as
  /// small as can be, then the sum of its squares. Throws ValueError for fewer blocks than stages.
  static Stages balanced(const std::vector<int64_t>& costs, int64_t ranks, int64_t per_rank);

  int64_t size() const { return static_cast<int64_t>(ranges.size()); }
  int64_t num_blocks() const { return ranges.empty() ? 0 : ranges.back().end; }
  int64_t rank_of(int64_t stage) const { return stage % ranks; }
  /// The stage of this block; throws ValueError when there is none.
  int64_t of_block(int64_t block) const;
  /// The rank that runs it.
  int64_t rank_of_block(int64_t block) const { return rank_of(of_block(block)); }
  /// The same cut without the last block (a head): its stage is one shorter, or gone.
  Stages without_last_block() const;
};

/// Ranks along `pipe`; 1 for a mesh without that axis.
int64_t pipe_degree(const Mesh& mesh);

/// Elements of the parameters of each block, and one: what `Stages::balanced` evens out.
std::vector<int64_t> block_costs(const std::vector<Block>& blocks, const ParameterTable& parameters);

/// Let every rank hold only the parameters of its own blocks; `names[b]` are those of block b. What several
/// stages read (tied weights) is held by each of them, and Parameter::stage_ranks says by whom; what no block
/// reads goes to the last stage. Call it after place_parameters and before ZeRO partitions the table. Local.
/// Throws ValueError for a table that has values already, and for a parameter without dims.
void place_stages(ParameterTable& parameters, const std::vector<std::vector<std::string>>& names,
                  const Stages& stages, const Mesh& mesh);

}  // namespace axial::parallel
