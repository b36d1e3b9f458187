// SPDX-License-Identifier: Apache-2.0
// The published orders.
#include "axial/parallel/pipeline/order.h"

#include <algorithm>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

// Stages of this rank, ascending.
std::vector<int64_t> stages_of(const Stages& stages, int64_t rank) {
  std::vector<int64_t> own;
  for (int64_t s = rank; s < stages.size(); s += stages.ranks) own.push_back(s);
  return own;
}

std::vector<StageWork> all_then_all(const std::vector<int64_t>& own, int64_t micro_batches) {
  std::vector<StageWork> work;
  for (const int64_t stage : own) {
    for (int64_t m = 0; m < micro_batches; ++m) work.push_back({false, stage, m});
  }
  for (size_t k = own.size(); k-- > 0;) {
    for (int64_t m = 0; m < micro_batches; ++m) work.push_back({true, own[k], m});
  }
  return work;
}

// Step k of one direction: P micro-batches through one stage of the rank, then the same through its next one.
StageWork work_of(const std::vector<int64_t>& own, int64_t ranks, int64_t k, bool backward) {
  const auto per_rank = static_cast<int64_t>(own.size());
  const int64_t in_round = k % (ranks * per_rank);
  const int64_t chunk = in_round / ranks;
  const int64_t stage = own[static_cast<size_t>(backward ? per_rank - 1 - chunk : chunk)];
  return {backward, stage, k / (ranks * per_rank) * ranks + in_round % ranks};
}

// Backward follows forward after `warm_up` steps.
std::vector<StageWork> alternate(const std::vector<int64_t>& own, int64_t ranks, int64_t rank,
                                 int64_t micro_batches) {
  const auto per_rank = static_cast<int64_t>(own.size());
  const int64_t rounds = per_rank == 1 ? micro_batches : (micro_batches + ranks - 1) / ranks * ranks;
  const int64_t total = rounds * per_rank;
  const int64_t ahead = ranks - rank - 1;
  const int64_t warm_up = std::min(total, per_rank == 1 ? ahead : 2 * ahead + (per_rank - 1) * ranks);
  std::vector<StageWork> work;
  const auto add = [&](int64_t k, bool backward) {
    const StageWork next = work_of(own, ranks, k, backward);
    if (next.micro_batch < micro_batches) work.push_back(next);
  };
  for (int64_t k = 0; k < warm_up; ++k) add(k, false);
  for (int64_t k = warm_up; k < total; ++k) {
    add(k, false);
    add(k - warm_up, true);
  }
  for (int64_t k = total - warm_up; k < total; ++k) add(k, true);
  return work;
}

}  // namespace

std::vector<StageWork> stage_order(const Stages& stages, int64_t rank, int64_t num_micro_batches,
                                   PipeSchedule schedule) {
  AXIAL_CHECK(0 <= rank && rank < stages.ranks, "pipe", "rank; expected one of [0, {}), got {}", stages.ranks,
              rank);
  const std::vector<int64_t> own = stages_of(stages, rank);
  if (own.empty()) return {};
  if (schedule == PipeSchedule::kGPipe && stages.ranks > 1) return all_then_all(own, num_micro_batches);
  return alternate(own, stages.ranks, rank, num_micro_batches);
}

}  // namespace axial::parallel
