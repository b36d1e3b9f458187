// SPDX-License-Identifier: Apache-2.0
// Memory policy -> action list. All decisions about keeping and recomputing are made here.
#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/parallel/step/action.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "step_plan";

const char* name_of(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward:
      return "forward";
    case ActionKind::kRecompute:
      return "recompute";
    case ActionKind::kBackward:
      return "backward";
    case ActionKind::kFree:
      return "free";
    case ActionKind::kGather:
      return "gather";
    case ActionKind::kRelease:
      return "release";
    case ActionKind::kReduce:
      return "reduce";
  }
  return "?";
}

void check_counts(int64_t num_blocks, int64_t num_micro_batches, const MemoryPolicy& policy) {
  AXIAL_CHECK(num_blocks >= 1, kOp, "number of blocks; expected at least 1, got {}", num_blocks);
  AXIAL_CHECK(num_micro_batches >= 1, kOp, "number of micro-batches; expected at least 1, got {}",
              num_micro_batches);
  AXIAL_CHECK(policy.recompute_group >= 0 && policy.keep_first >= 0 && policy.keep_last >= 0, kOp,
              "memory policy; expected no negative number, got recompute_group {} keep_first {} keep_last {}",
              policy.recompute_group, policy.keep_first, policy.keep_last);
  AXIAL_CHECK(0 <= policy.zero_stage && policy.zero_stage <= 3, kOp,
              "zero_stage; expected one of [0, 3], got {}", policy.zero_stage);
}

// Fills plan.groups; true for those that keep their graph.
std::vector<bool> cut_into_groups(int64_t num_blocks, const MemoryPolicy& policy, StepPlan& plan) {
  const int64_t first = std::min(num_blocks, policy.keep_first);
  const int64_t last = std::max(first, num_blocks - policy.keep_last);
  std::vector<bool> keep;
  for (int64_t b = 0; b < num_blocks;) {
    const bool kept = policy.recompute_group == 0 || b < first || b >= last;
    const int64_t end = kept ? b + 1 : std::min(last, b + policy.recompute_group);
    plan.groups.push_back({b, end});
    keep.push_back(kept);
    b = end;
  }
  return keep;
}

}  // namespace

StepPlan write_training_step(int64_t num_blocks, int64_t num_micro_batches, const MemoryPolicy& policy) {
  check_counts(num_blocks, num_micro_batches, policy);
  StepPlan plan;
  const std::vector<bool> keep = cut_into_groups(num_blocks, policy, plan);
  const auto num_groups = static_cast<int64_t>(plan.groups.size());
  const bool gathers = policy.zero_stage == 3;
  const auto add = [&](ActionKind kind, int64_t m, int64_t g, bool keep_graph = false) {
    plan.actions.push_back({kind, m, g, keep_graph});
  };
  for (int64_t m = 0; m < num_micro_batches; ++m) {
    if (gathers) add(ActionKind::kGather, m, 0);
    for (int64_t g = 0; g < num_groups; ++g) {
      if (gathers && g + 1 < num_groups) add(ActionKind::kGather, m, g + 1);
      add(ActionKind::kForward, m, g, keep[static_cast<size_t>(g)]);
      if (gathers && g + 1 < num_groups) add(ActionKind::kRelease, m, g);  // the last one goes on backward
    }
    for (int64_t g = num_groups - 1; g >= 0; --g) {
      if (gathers && g > 0) add(ActionKind::kGather, m, g - 1);
      if (!keep[static_cast<size_t>(g)]) add(ActionKind::kRecompute, m, g);
      add(ActionKind::kBackward, m, g);
      if (gathers) add(ActionKind::kRelease, m, g);
      if (policy.zero_stage >= 2 || m + 1 == num_micro_batches) add(ActionKind::kReduce, m, g);
    }
    add(ActionKind::kFree, m, 0);
  }
  return plan;
}

StepPlan write_inference_step(int64_t num_blocks, int64_t zero_stage) {
  AXIAL_CHECK(num_blocks >= 1, kOp, "number of blocks; expected at least 1, got {}", num_blocks);
  StepPlan plan;
  const bool gathers = zero_stage == 3;
  if (gathers) plan.actions.push_back({ActionKind::kGather, 0, 0, false});
  for (int64_t b = 0; b < num_blocks; ++b) {
    plan.groups.push_back({b, b + 1});
    if (gathers && b + 1 < num_blocks) plan.actions.push_back({ActionKind::kGather, 0, b + 1, false});
    plan.actions.push_back({ActionKind::kForward, 0, b, false});
    if (gathers) plan.actions.push_back({ActionKind::kRelease, 0, b, false});
  }
  plan.actions.push_back({ActionKind::kFree, 0, 0, false});
  return plan;
}

std::string to_string(const StepPlan& plan, const Action& action) {
  if (action.kind == ActionKind::kFree) return fmt::format("free mb{}", action.micro_batch);
  const BlockRange range = plan.groups.at(static_cast<size_t>(action.group));
  const std::string group = fmt::format("g{} [{},{})", action.group, range.begin, range.end);
  return fmt::format("{} mb{} {}{}", name_of(action.kind), action.micro_batch, group,
                     action.keep_graph ? " keep" : "");
}

std::string to_string(const StepPlan& plan) {
  std::string text;
  for (const Action& action : plan.actions) text += to_string(plan, action) + "\n";
  return text;
}

}  // namespace axial::parallel
