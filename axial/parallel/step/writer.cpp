// SPDX-License-Identifier: Apache-2.0
// Memory policy -> action list. All decisions about keeping and recomputing are made here.
#include <algorithm>
#include <map>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/step/action.h"
#include "axial/parallel/step/offload_actions.h"

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
    case ActionKind::kSend:
      return "send";
    case ActionKind::kRecv:
      return "recv";
    case ActionKind::kSendGrad:
      return "send_grad";
    case ActionKind::kRecvGrad:
      return "recv_grad";
    case ActionKind::kTie:
      return "tie";
    case ActionKind::kOffload:
      return "offload";
    case ActionKind::kFetch:
      return "fetch";
    case ActionKind::kCut:
      return "cut";
    case ActionKind::kJoin:
      return "join";
    case ActionKind::kFetchParts:
      return "fetch_parts";
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
  AXIAL_CHECK(policy.tile_tokens >= 0, kOp, "tile_tokens; expected 0 or more, got {}", policy.tile_tokens);
  AXIAL_CHECK(policy.head_groups >= 1, kOp, "head_groups; expected at least 1, got {}", policy.head_groups);
  AXIAL_CHECK(0 <= policy.zero_stage && policy.zero_stage <= 3, kOp,
              "zero_stage; expected one of [0, 3], got {}", policy.zero_stage);
  AXIAL_CHECK(policy.offload_parameters == OffloadTo::kNone || policy.zero_stage == 3, kOp,
              "zero_stage where parameters are offloaded; expected 3, got {}", policy.zero_stage);
}

// Groups of the own stages, and what the writer knows of them.
struct Groups {
  std::vector<bool> keeps_graph;
  std::map<int64_t, std::pair<int64_t, int64_t>> of_stage;  // [first, last] group
};

Groups cut_into_groups(const Stages& stages, int64_t rank, const MemoryPolicy& policy, StepPlan& plan) {
  const int64_t num_blocks = stages.num_blocks();
  const int64_t first = std::min(num_blocks, policy.keep_first);
  const int64_t last = std::max(first, num_blocks - policy.keep_last);
  Groups groups;
  for (int64_t s = rank; s < stages.size(); s += stages.ranks) {
    const BlockRange stage = stages.ranges[static_cast<size_t>(s)];
    groups.of_stage[s].first = static_cast<int64_t>(plan.groups.size());
    for (int64_t b = stage.begin; b < stage.end;) {
      const bool kept = policy.recompute_group == 0 || b < first || b >= last;
      const int64_t end = kept ? b + 1 : std::min({last, stage.end, b + policy.recompute_group});
      plan.groups.push_back({b, end});
      groups.keeps_graph.push_back(kept);
      b = end;
    }
    groups.of_stage[s].second = static_cast<int64_t>(plan.groups.size()) - 1;
  }
  return groups;
}

bool computes(const Action& action) {
  return action.kind == ActionKind::kForward || action.kind == ActionKind::kRecompute ||
         action.kind == ActionKind::kBackward;
}

// A group that is used once: its actions [begin, end), a recompute and its backward together. What it waits
// for belongs to it, so that a gather before it overlaps with the wait.
struct Use {
  int64_t group = 0;
  int64_t micro_batch = 0;
  size_t begin = 0;
  size_t end = 0;
};

// Uses of a group in a row.
struct Stay {
  Use first, last;
};

std::vector<Use> uses_of(const std::vector<Action>& actions) {
  std::vector<Use> uses;
  for (size_t i = 0; i < actions.size(); ++i) {
    if (!computes(actions[i])) continue;
    size_t begin = i;
    if (actions[i].kind == ActionKind::kRecompute) ++i;
    const auto waits = [](const Action& a) {
      return a.kind == ActionKind::kRecv || a.kind == ActionKind::kRecvGrad;
    };
    if (begin > 0 && waits(actions[begin - 1])) --begin;
    uses.push_back({actions[i].group, actions[i].micro_batch, begin, i + 1});
  }
  return uses;
}

std::vector<Stay> stays_of(const std::vector<Action>& actions) {
  std::vector<Stay> stays;
  for (const Use& use : uses_of(actions)) {
    if (stays.empty() || stays.back().first.group != use.group) stays.push_back({use, use});
    stays.back().last = use;
  }
  return stays;
}

// ZeRO-3: a group is gathered before the group ahead of it computes, and kept while it is used in a row. With
// `fetches` its parts come to the device before the one ahead of that does: behind its release where it is
// used there.
void add_gathers(StepPlan& plan, bool fetches) {
  const std::vector<Stay> stays = stays_of(plan.actions);
  std::vector<Action> actions;
  size_t next = 0;  // action not yet taken over
  const auto take = [&](size_t end) {
    actions.insert(actions.end(), plan.actions.begin() + static_cast<std::ptrdiff_t>(next),
                   plan.actions.begin() + static_cast<std::ptrdiff_t>(end));
    next = end;
  };
  const auto add = [&](ActionKind kind, size_t s) {
    if (s < stays.size()) actions.push_back({kind, stays[s].first.micro_batch, stays[s].first.group});
  };
  if (stays.empty()) return;
  take(stays.front().first.begin);
  if (fetches) {
    add(ActionKind::kFetchParts, 0);
    add(ActionKind::kFetchParts, 1);
  }
  add(ActionKind::kGather, 0);
  for (size_t s = 0; s < stays.size(); ++s) {
    const Use& last = stays[s].last;
    take(last.begin);
    add(ActionKind::kGather, s + 1);
    const bool comes_back = s + 2 < stays.size() && stays[s + 2].first.group == last.group;
    if (fetches && !comes_back) add(ActionKind::kFetchParts, s + 2);
    take(last.end);
    actions.push_back({ActionKind::kRelease, last.micro_batch, last.group});
    if (fetches && comes_back) add(ActionKind::kFetchParts, s + 2);
  }
  take(plan.actions.size());
  plan.actions = std::move(actions);
}

// Writes the passes of stages one after the other.
class Writer {
 public:
  Writer(const Stages& stages, int64_t rank, const MemoryPolicy& policy)
      : stages_(stages),
        keep_attention_(policy.keep_attention),
        groups_(cut_into_groups(stages, rank, policy, plan_)) {
    plan_.head_groups = policy.head_groups;
    plan_.tile_tokens = policy.tile_tokens;
  }

  void forward(int64_t stage, int64_t m, bool may_keep) {
    const auto [first, last] = groups_.of_stage.at(stage);
    if (stage > 0) add(ActionKind::kRecv, m, first);
    for (int64_t g = first; g <= last; ++g) {
      plan_.actions.push_back(
          {ActionKind::kForward, m, g, may_keep && keeps(g), may_keep && keep_attention_ && !keeps(g)});
    }
    if (stage + 1 < stages_.size()) add(ActionKind::kSend, m, last);
  }

  void backward(int64_t stage, int64_t m, bool reduces) {
    const auto [first, last] = groups_.of_stage.at(stage);
    if (stage + 1 < stages_.size()) add(ActionKind::kRecvGrad, m, last);
    for (int64_t g = last; g >= first; --g) {
      if (!keeps(g)) add(ActionKind::kRecompute, m, g);
      add(ActionKind::kBackward, m, g);
      if (g == first && stage > 0) add(ActionKind::kSendGrad, m, first);
      if (reduces) add(ActionKind::kReduce, m, g);
    }
  }

  void add(ActionKind kind, int64_t m, int64_t g) { plan_.actions.push_back({kind, m, g}); }
  StepPlan& plan() { return plan_; }

 private:
  bool keeps(int64_t group) const { return groups_.keeps_graph[static_cast<size_t>(group)]; }

  StepPlan plan_;
  const Stages& stages_;
  bool keep_attention_ = false;
  Groups groups_;
};

}  // namespace

StepPlan write_training_step(const Stages& stages, int64_t rank, int64_t num_micro_batches,
                             const MemoryPolicy& policy, PipeSchedule schedule) {
  check_counts(stages.num_blocks(), num_micro_batches, policy);
  Writer writer(stages, rank, policy);
  const std::vector<StageWork> order = stage_order(stages, rank, num_micro_batches, schedule);
  for (size_t i = 0; i < order.size(); ++i) {
    const auto& [backward, stage, m] = order[i];
    if (!backward) {
      writer.forward(stage, m, true);
      continue;
    }
    writer.backward(stage, m, policy.zero_stage >= 2 || m + 1 == num_micro_batches);
    const bool is_last = std::none_of(order.begin() + static_cast<std::ptrdiff_t>(i) + 1, order.end(),
                                      [m = m](const StageWork& w) { return w.micro_batch == m; });
    if (is_last) writer.add(ActionKind::kFree, m, 0);
  }
  if (policy.zero_stage == 3) add_gathers(writer.plan(), policy.offload_parameters != OffloadTo::kNone);
  add_moves(writer.plan(), policy.partition_activations, policy.offload_checkpoints != OffloadTo::kNone);
  if (stages.ranks > 1) {
    writer.add(ActionKind::kTie, 0, 0);
    // Enough for every rank to run as far ahead as its schedule lets it. Gradients are taken soon after they
    // come, but for stages of one rank that wait for each other.
    const int64_t ahead = schedule == PipeSchedule::kGPipe ? num_micro_batches : stages.size() + 1;
    writer.plan().sends_in_flight = ahead;
    writer.plan().grads_in_flight = stages.size() > stages.ranks ? ahead : 2;
  }
  return std::move(writer.plan());
}

StepPlan write_training_step(int64_t num_blocks, int64_t num_micro_batches, const MemoryPolicy& policy) {
  return write_training_step(Stages::whole(num_blocks), 0, num_micro_batches, policy);
}

StepPlan write_inference_step(const Stages& stages, int64_t rank, const MemoryPolicy& policy) {
  check_counts(stages.num_blocks(), 1, policy);
  Writer writer(stages, rank, {.tile_tokens = policy.tile_tokens});
  for (int64_t s = rank; s < stages.size(); s += stages.ranks) writer.forward(s, 0, false);
  if (policy.zero_stage == 3) add_gathers(writer.plan(), policy.offload_parameters != OffloadTo::kNone);
  writer.add(ActionKind::kFree, 0, 0);
  return std::move(writer.plan());
}

StepPlan write_inference_step(int64_t num_blocks, const MemoryPolicy& policy) {
  return write_inference_step(Stages::whole(num_blocks), 0, policy);
}

std::string to_string(const StepPlan& plan, const Action& action) {
  if (action.kind == ActionKind::kTie) return name_of(action.kind);
  if (action.kind == ActionKind::kFree) return fmt::format("free mb{}", action.micro_batch);
  const BlockRange range = plan.groups.at(static_cast<size_t>(action.group));
  const std::string group = fmt::format("g{} [{},{})", action.group, range.begin, range.end);
  return fmt::format("{} mb{} {}{}", name_of(action.kind), action.micro_batch, group,
                     action.keep_graph       ? " keep"
                     : action.keep_attention ? " keep attention"
                                             : "");
}

std::string to_string(const StepPlan& plan) {
  std::string text;
  for (const Action& action : plan.actions) text += to_string(plan, action) + "\n";
  return text;
}

}  // namespace axial::parallel
