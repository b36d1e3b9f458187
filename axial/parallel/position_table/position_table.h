// SPDX-License-Identifier: Apache-2.0
// A table with a row for every position of a record, cut over the ranks that share a sequence: each holds the
// rows of the positions that it holds. Models place it in their parallelize and look rows up through it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "axial/parallel/block/block.h"
#include "axial/parallel/layout/dim_layout.h"
#include "axial/parallel/mesh/mesh.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/tensor/stream.h"

namespace axial::parallel {

/// How a table of positions is cut. Written by a model's parallelize before any step, read by its blocks.
struct PositionCut {
  struct Layouts {
    DimLayout table;  ///< who holds which row of the table
    DimLayout rows;   ///< who holds which place of a row of a batch: the rows before all others, in order
  };
  std::optional<Layouts> layouts;  ///< none: every rank holds the whole table
};

/// Cut a table [P, C] for rows of `row_length` N <= P places: a rank of ring and ulysses holds the rows of
/// its places of SequenceLayout::over(mesh, N), and an even share of the P - N others. Its gradient is this
/// rank's alone along these axes, and so are ZeRO's pieces. One rank along both: nothing changes. Call it
/// before the table gets values. Local. Throws ValueError for N > P.
void cut_positions(Parameter& table, PositionCut& cut, const Mesh& mesh, int64_t row_length);

/// The rows of a table [P, C] for the positions of the stream here.
///
/// B rows, L' positions of them in the stream here.
///   inputs   of the block: "positions" [B, L]; of a table that is cut "later_records" too
///   returns  [L', C], the same for all rows, or [B, L', C]
/// Gradients: the table. Where the table is cut for the rows of this call and each is one record, a position
/// is its place: all is local, and on ranks of its own. Otherwise one all-gather of the table and backward
/// one reduce-scatter: whole for as long as it is read. Padding may get any rows.
at::Tensor position_rows(const Parameter& table, const PositionCut& cut, const NamedTensors& inputs,
                         const StepContext& context, const TensorStream& stream);

}  // namespace axial::parallel
