// SPDX-License-Identifier: Apache-2.0
// In which order a rank of a pipeline works on its stages and micro-batches. The plan writer asks it.
#pragma once

#include <cstdint>
#include <vector>

#include "axial/parallel/mesh/pipe_schedule.h"
#include "axial/parallel/pipeline/stages.h"

namespace axial::parallel {

/// One pass of a micro-batch through a stage.
struct StageWork {
  bool backward = false;
  int64_t stage = 0;
  int64_t micro_batch = 0;

  friend bool operator==(const StageWork&, const StageWork&) = default;
};

/// The work of this rank in order. Backwards of a stage come in the order of the micro-batches, so that
/// gradients are summed as by one rank. Any number of micro-batches: an order for the next multiple of P
/// without the work that is not there, which can wait for nothing that the whole order does not.
std::vector<StageWork> stage_order(const Stages& stages, int64_t rank, int64_t num_micro_batches,
                                   PipeSchedule schedule);

}  // namespace axial::parallel
