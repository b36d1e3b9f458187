// SPDX-License-Identifier: Apache-2.0
// Simulation of a plan without tensors: states of groups per micro-batch and liveness of every version.
#include "axial/parallel/step/schedule.h"

#include <set>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "step_plan";

enum class GroupState { kNothing, kBorder, kGraph, kDone };

// Where a version was last touched; it is dropped there when no read follows.
struct Place {
  int64_t action = -1;
  int64_t block = 0;
};

struct MicroBatchState {
  std::vector<GroupState> groups;
  std::vector<Place> last_touch;  // per version; action -1: not there
  bool freed = false;
};

class Simulation {
 public:
  Simulation(const Stream& stream, const StepPlan& plan, int64_t num_micro_batches, PlanUse use, bool gathers)
      : stream_(stream), plan_(plan), use_(use), gathers_(gathers), gathered_(plan.groups.size(), 0) {
    check_groups();
    find_readers();
    for (const Action& action : plan.actions) {
      const bool needs_group = action.kind != ActionKind::kFree;
      const auto range = needs_group ? group_of(action) : BlockRange{};
      schedule_.drops.emplace_back(static_cast<size_t>(range.end - range.begin));
    }
    states_.assign(static_cast<size_t>(num_micro_batches),
                   {std::vector<GroupState>(plan.groups.size(), GroupState::kNothing),
                    std::vector<Place>(stream.values.size()), false});
    reduced_.assign(plan.groups.size(), std::vector<bool>(states_.size(), false));
  }

  Schedule run() {
    for (at_ = 0; at_ < static_cast<int64_t>(plan_.actions.size()); ++at_)
      step(plan_.actions[static_cast<size_t>(at_)]);
    for (MicroBatchState& state : states_) drop_all(state);
    check_complete();
    return std::move(schedule_);
  }

 private:
  void check_groups() const {
    int64_t next = 0;
    for (const BlockRange& range : plan_.groups) {
      AXIAL_CHECK(range.begin == next && range.end > range.begin, kOp,
                  "groups; expected one that starts at block {}, got [{}, {})", next, range.begin, range.end);
      next = range.end;
    }
    AXIAL_CHECK(next == static_cast<int64_t>(stream_.reads.size()), kOp,
                "groups; expected them to cover {} blocks, got {}", stream_.reads.size(), next);
  }

  // readers_[g]: later groups that read a version written in g.
  void find_readers() {
    std::vector<size_t> group_of_block;
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      group_of_block.insert(group_of_block.end(),
                            static_cast<size_t>(plan_.groups[g].end - plan_.groups[g].begin), g);
    }
    readers_.resize(plan_.groups.size());
    for (size_t b = 0; b < stream_.reads.size(); ++b) {
      for (const int64_t v : stream_.reads[b]) {
        const int64_t producer = stream_.values[static_cast<size_t>(v)].producer;
        if (producer == kFromBatch) continue;
        const size_t g = group_of_block[static_cast<size_t>(producer)];
        if (g != group_of_block[b]) readers_[g].insert(group_of_block[b]);
      }
    }
  }

  BlockRange group_of(const Action& action) const {
    AXIAL_CHECK(0 <= action.group && action.group < static_cast<int64_t>(plan_.groups.size()), kOp,
                "group of an action; expected one of [0, {}), got {}", plan_.groups.size(), action.group);
    return plan_.groups[static_cast<size_t>(action.group)];
  }

  std::string here() const {
    return fmt::format("action {} '{}'", at_, to_string(plan_, plan_.actions[static_cast<size_t>(at_)]));
  }

  void step(const Action& action) {
    if (action.kind == ActionKind::kReduce) return reduce(action);
    if (action.kind == ActionKind::kGather || action.kind == ActionKind::kRelease) return fetch(action);
    AXIAL_CHECK(0 <= action.micro_batch && action.micro_batch < static_cast<int64_t>(states_.size()), kOp,
                "{}; expected a micro-batch of [0, {}), got {}", here(), states_.size(), action.micro_batch);
    MicroBatchState& state = states_[static_cast<size_t>(action.micro_batch)];
    AXIAL_CHECK(!state.freed, kOp, "{} comes after the free of its micro-batch", here());
    if (action.kind == ActionKind::kFree) {
      drop_all(state);
      state.freed = true;
      return;
    }
    AXIAL_CHECK(!gathers_ || gathered_[static_cast<size_t>(action.group)] > 0, kOp,
                "{} uses values that are not there; expected a gather before it", here());
    GroupState& group = state.groups[static_cast<size_t>(action.group)];
    switch (action.kind) {
      case ActionKind::kForward:
        AXIAL_CHECK(group == GroupState::kNothing, kOp, "{} runs a group forward twice", here());
        AXIAL_CHECK(use_ == PlanUse::kTraining || !action.keep_graph, kOp,
                    "{} keeps a graph that inference has no use for", here());
        run_group(action, state);
        group = action.keep_graph ? GroupState::kGraph : GroupState::kBorder;
        break;
      case ActionKind::kRecompute:
        AXIAL_CHECK(group == GroupState::kBorder && use_ == PlanUse::kTraining, kOp,
                    "{}; expected a training step and a forward without graph before it", here());
        run_group(action, state);
        group = GroupState::kGraph;
        break;
      default:
        AXIAL_CHECK(group == GroupState::kGraph, kOp,
                    "{}; expected a forward or recompute that made its graph before it", here());
        for (const size_t reader : readers_[static_cast<size_t>(action.group)]) {
          AXIAL_CHECK(state.groups[reader] == GroupState::kDone, kOp,
                      "{}; expected the backward of g{}, which reads its outputs, before it", here(), reader);
        }
        group = GroupState::kDone;
    }
  }

  void fetch(const Action& action) {
    int64_t& count = gathered_[static_cast<size_t>(action.group)];
    count += action.kind == ActionKind::kGather ? 1 : -1;
    AXIAL_CHECK(count >= 0, kOp, "{}; expected a gather before it", here());
  }

  // Brings every backward of its group since the last one.
  void reduce(const Action& action) {
    AXIAL_CHECK(use_ == PlanUse::kTraining, kOp, "{}; expected none in an inference step", here());
    std::vector<bool>& reduced = reduced_[static_cast<size_t>(action.group)];
    bool brings = false;
    for (size_t m = 0; m < states_.size(); ++m) {
      if (states_[m].groups[static_cast<size_t>(action.group)] != GroupState::kDone) continue;
      brings = brings || !reduced[m];
      reduced[m] = true;
    }
    AXIAL_CHECK(brings, kOp, "{}; expected a backward of its group since the reduce before it", here());
  }

  void run_group(const Action& action, MicroBatchState& state) {
    const BlockRange range = plan_.groups[static_cast<size_t>(action.group)];
    for (int64_t b = range.begin; b < range.end; ++b) {
      const Place place{at_, b - range.begin};
      for (const int64_t v : stream_.reads[static_cast<size_t>(b)]) {
        const StreamValue& value = stream_.values[static_cast<size_t>(v)];
        if (value.producer == kFromBatch) continue;
        Place& touch = state.last_touch[static_cast<size_t>(v)];
        AXIAL_CHECK(touch.action >= 0, kOp, "{}; expected block {}, which writes '{}', to run before it",
                    here(), value.producer, value.name);
        touch = place;
      }
      for (const int64_t v : stream_.writes[static_cast<size_t>(b)]) {
        drop(state, v);
        state.last_touch[static_cast<size_t>(v)] = place;
      }
    }
  }

  void drop(MicroBatchState& state, int64_t version) {
    Place& touch = state.last_touch[static_cast<size_t>(version)];
    if (touch.action < 0) return;
    schedule_.drops[static_cast<size_t>(touch.action)][static_cast<size_t>(touch.block)].push_back(version);
    touch = {};
  }

  void drop_all(MicroBatchState& state) {
    for (size_t v = 0; v < state.last_touch.size(); ++v) drop(state, static_cast<int64_t>(v));
  }

  void check_complete() const {
    const bool training = use_ == PlanUse::kTraining;
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      for (size_t m = 0; m < states_.size(); ++m) {
        const GroupState expected = training ? GroupState::kDone : GroupState::kBorder;
        AXIAL_CHECK(states_[m].groups[g] == expected, kOp, "plan leaves out the {} of mb{} g{}",
                    training ? "backward" : "forward", m, g);
      }
      for (size_t m = 0; m < states_.size(); ++m) {
        AXIAL_CHECK(!training || reduced_[g][m], kOp, "plan leaves out the reduce of mb{} g{}", m, g);
      }
      AXIAL_CHECK(gathered_[g] == 0, kOp, "plan leaves out the release of g{}", g);
    }
  }

  const Stream& stream_;
  const StepPlan& plan_;
  PlanUse use_;
  bool gathers_;
  std::vector<int64_t> gathered_;           // per group: gathers not yet released
  std::vector<std::vector<bool>> reduced_;  // per group and micro-batch
  std::vector<std::set<size_t>> readers_;
  std::vector<MicroBatchState> states_;
  Schedule schedule_;
  int64_t at_ = 0;
};

}  // namespace

Schedule schedule_plan(const Stream& stream, const StepPlan& plan, int64_t num_micro_batches, PlanUse use,
                       bool gathers) {
  return Simulation(stream, plan, num_micro_batches, use, gathers).run();
}

}  // namespace axial::parallel
