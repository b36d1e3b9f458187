// SPDX-License-Identifier: Apache-2.0
// Checkpoints that leave the device, or are cut over ranks of tensor, between a group's forward and its
// recompute: where a plan moves them, and which tensors move. Used by writer.cpp, schedule.cpp and
// step_offload.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "axial/parallel/step/action.h"
#include "axial/parallel/step/stream.h"

namespace axial::parallel {

/// Add a cut (where `cuts`) and an offload behind the forward of every group that is recomputed, and a join
/// or fetch before whatever the rank computes just ahead of the recompute; of both the fetch one computation
/// earlier. Groups that are recomputed so soon that nothing would be gained are left alone.
void add_moves(StepPlan& plan, bool cuts, bool offloads);

/// Per action, the versions that an offload (a cut) takes away and its fetch (join) brings back: those that
/// the group reads of other groups, unless something reads or sends them in between, or a graph holds them
/// anyway. Throws ValueError for an offload that no fetch before the recompute undoes, and a fetch without
/// offload; likewise for cuts and joins.
std::vector<std::vector<int64_t>> find_moves(const Stream& stream, const StepPlan& plan);

}  // namespace axial::parallel
