// SPDX-License-Identifier: Apache-2.0
// Which rows of the table a rank holds, and how the others are met where records begin inside of rows.
#include "axial/parallel/position_table/position_table.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/ops/embedding/embedding.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/collectives/rows.h"
#include "axial/parallel/layout/sequence_layout.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "position_table";

// Every rank of the sequence answers alike: it asks for what all of them know.
bool in_row_order(const PositionCut::Layouts& layouts, const NamedTensors& inputs,
                  const StepContext& context) {
  return context.decode == nullptr && context.sequence != nullptr &&
         context.sequence->dim() == layouts.rows && inputs.at("later_records").numel() == 0;
}

}  // namespace

void cut_positions(Parameter& table, PositionCut& cut, const Mesh& mesh, int64_t row_length) {
  const Axes axes = mesh.sequence_axes();
  const int64_t ranks = mesh.group_size(axes);
  if (ranks == 1) return;
  const std::vector<int64_t>& shape = table.spec.shape;
  AXIAL_CHECK(!table.value.defined(), kOp, "'{}' has a value already; expected one that is not materialised",
              table.spec.name);
  AXIAL_CHECK(row_length <= shape[0], kOp, "rows of {} places; expected at most the {} rows of '{}'",
              row_length, shape[0], table.spec.name);
  const DimLayout rows = SequenceLayout::over(mesh, row_length).dim();
  const DimLayout others = DimLayout::contiguous(shape[0] - row_length, ranks);
  std::vector<Intervals> held;
  for (int64_t r = 0; r < ranks; ++r) {
    Intervals all = rows.owned(r);
    for (const Interval& i : others.owned(r)) all.push_back({row_length + i.begin, row_length + i.end});
    held.push_back(normalised(all));
  }
  cut.layouts = {DimLayout::custom(shape[0], held), rows};
  table.holding = Holding::cut(shape, 0, held[static_cast<size_t>(mesh.group_rank(axes, mesh.rank()))]);
  table.sharded_axes.insert(table.sharded_axes.end(), axes.begin(), axes.end());
}

at::Tensor position_rows(const Parameter& table, const PositionCut& cut, const NamedTensors& inputs,
                         const StepContext& context, const TensorStream& stream) {
  const at::Tensor positions = stream.own(inputs.at("positions"), 1);
  if (!cut.layouts) return ops::embedding(table.value, positions);
  if (in_row_order(*cut.layouts, inputs, context)) {
    return stream.own(table.value.narrow(0, 0, context.sequence->local_length()), 0);
  }
  const DimLayout& layout = cut.layouts->table;
  AXIAL_CHECK(context.ranks != nullptr && context.ranks->mesh().group_size(
                                              context.ranks->mesh().sequence_axes()) == layout.num_ranks(),
              kOp, "'{}' is cut over {} ranks of ring and ulysses; expected to run on as many",
              table.spec.name, layout.num_ranks());
  const Axes axes = context.ranks->mesh().sequence_axes();
  std::optional<ops::MemoryScope> gathered(ops::MemoryUse::kGathered);
  const at::Tensor whole = gather_from(table.value, 0, context.ranks, axes, sizes_of(layout));
  gathered.reset();
  if (positions.is_meta()) return ops::embedding(whole, at::empty_like(positions));
  const at::Tensor places = gathered_places(layout).to(positions.device());
  return ops::embedding(whole, places.index_select(0, positions.flatten()).view_as(positions));
}

}  // namespace axial::parallel
