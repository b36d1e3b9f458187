// SPDX-License-Identifier: Apache-2.0
// Simulation of a plan without tensors: states of groups per micro-batch and liveness of every version.
#include "axial/parallel/step/schedule.h"

#include <set>

#include "axial/core/check/check.h"
#include "axial/parallel/step/offload_actions.h"

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
  std::set<std::pair<ActionKind, int64_t>> transfers;  // done, by border
};

class Simulation {
 public:
  Simulation(const Stream& stream, const StepPlan& plan, int64_t num_micro_batches, PlanUse use, bool gathers,
             bool pipeline)
      : stream_(stream),
        plan_(plan),
        use_(use),
        gathers_(gathers),
        gathered_(plan.groups.size(), 0),
        fetched_(plan.groups.size()) {
    check_groups(pipeline);
    find_stages();
    find_readers();
    for (const Action& action : plan.actions) {
      fetches_ = fetches_ || action.kind == ActionKind::kFetchParts;
      const bool needs_group = action.kind != ActionKind::kFree;
      const auto range = needs_group ? group_of(action) : BlockRange{};
      schedule_.drops.emplace_back(static_cast<size_t>(range.end - range.begin));
    }
    states_.assign(static_cast<size_t>(num_micro_batches),
                   {std::vector<GroupState>(plan.groups.size(), GroupState::kNothing),
                    std::vector<Place>(stream.values.size()),
                    false,
                    {}});
    schedule_.moves = find_moves(stream, plan);
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
  void check_groups(bool pipeline) const {
    int64_t next = 0;
    for (const BlockRange& range : plan_.groups) {
      AXIAL_CHECK((range.begin == next || (pipeline && range.begin > next)) && range.end > range.begin, kOp,
                  "groups; expected one that starts at block {}{}, got [{}, {})", next,
                  pipeline ? " or behind it" : "", range.begin, range.end);
      next = range.end;
    }
    AXIAL_CHECK(next == num_blocks() || (pipeline && next < num_blocks()), kOp,
                "groups; expected them to cover {} blocks, got {}", num_blocks(), next);
  }

  int64_t num_blocks() const { return static_cast<int64_t>(stream_.reads.size()); }

  // stages_[g]: the blocks around group g that run here without a gap.
  void find_stages() {
    size_t first = 0;
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      if (g + 1 < plan_.groups.size() && plan_.groups[g + 1].begin == plan_.groups[g].end) continue;
      stages_.resize(g + 1, {plan_.groups[first].begin, plan_.groups[g].end});
      first = g + 1;
    }
  }

  // readers_[g]: later groups that read a version written in g.
  void find_readers() {
    const size_t elsewhere = plan_.groups.size();
    std::vector<size_t> group_of_block(stream_.reads.size(), elsewhere);
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      for (int64_t b = plan_.groups[g].begin; b < plan_.groups[g].end; ++b) {
        group_of_block[static_cast<size_t>(b)] = g;
      }
    }
    readers_.resize(plan_.groups.size());
    for (size_t b = 0; b < stream_.reads.size(); ++b) {
      for (const int64_t v : stream_.reads[b]) {
        const int64_t producer = stream_.values[static_cast<size_t>(v)].producer;
        if (producer == kFromBatch) continue;
        const size_t g = group_of_block[static_cast<size_t>(producer)];
        if (g != group_of_block[b] && g != elsewhere && group_of_block[b] != elsewhere) {
          readers_[g].insert(group_of_block[b]);
        }
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
    if (action.kind == ActionKind::kGather || action.kind == ActionKind::kRelease ||
        action.kind == ActionKind::kFetchParts)
      return fetch(action);
    if (action.kind == ActionKind::kTie) {
      AXIAL_CHECK(use_ == PlanUse::kTraining && at_ + 1 == static_cast<int64_t>(plan_.actions.size()), kOp,
                  "{}; expected it to end a training step", here());
      return;
    }
    AXIAL_CHECK(0 <= action.micro_batch && action.micro_batch < static_cast<int64_t>(states_.size()), kOp,
                "{}; expected a micro-batch of [0, {}), got {}", here(), states_.size(), action.micro_batch);
    MicroBatchState& state = states_[static_cast<size_t>(action.micro_batch)];
    AXIAL_CHECK(!state.freed, kOp, "{} comes after the free of its micro-batch", here());
    if (action.kind == ActionKind::kFree) {
      drop_all(state);
      state.freed = true;
      return;
    }
    if (is_transfer(action.kind)) return transfer(action, state);
    if (is_move(action.kind)) return move(action, state);
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
        check_gradients_came(action, state);
        group = GroupState::kDone;
    }
  }

  static bool is_move(ActionKind kind) {
    return kind == ActionKind::kOffload || kind == ActionKind::kFetch || kind == ActionKind::kCut ||
           kind == ActionKind::kJoin;
  }

  static bool is_transfer(ActionKind kind) {
    return kind == ActionKind::kSend || kind == ActionKind::kRecv || kind == ActionKind::kSendGrad ||
           kind == ActionKind::kRecvGrad;
  }

  // Over the border before (recv, send_grad) or behind (send, recv_grad) a stage, each once.
  void transfer(const Action& action, MicroBatchState& state) {
    const bool before = action.kind == ActionKind::kRecv || action.kind == ActionKind::kSendGrad;
    const BlockRange range = group_of(action), stage = stages_[static_cast<size_t>(action.group)];
    const int64_t border = before ? stage.begin : stage.end;
    AXIAL_CHECK((before ? range.begin : range.end) == border && 0 < border && border < num_blocks(), kOp,
                "{}; expected the {} group of a stage, and another stage {} it", here(),
                before ? "first" : "last", before ? "before" : "behind");
    AXIAL_CHECK(state.transfers.emplace(action.kind, border).second, kOp, "{} comes twice", here());
    const std::vector<int64_t> across = versions_across(stream_, border);
    if (action.kind == ActionKind::kSend) {
      for (const int64_t v : across) touch(state, v, {at_, 0});
    } else if (action.kind == ActionKind::kRecv) {
      for (const int64_t v : across) {
        drop(state, v);
        state.last_touch[static_cast<size_t>(v)] = {at_, 0};
      }
    } else if (action.kind == ActionKind::kSendGrad) {
      for (size_t g = 0; g < plan_.groups.size(); ++g) {
        AXIAL_CHECK(stages_[g] != stage || state.groups[g] == GroupState::kDone, kOp,
                    "{}; expected the backward of g{} before it", here(), g);
      }
    }
  }

  void check_gradients_came(const Action& action, const MicroBatchState& state) const {
    const int64_t border = stages_[static_cast<size_t>(action.group)].end;
    AXIAL_CHECK(border == num_blocks() || state.transfers.contains({ActionKind::kRecvGrad, border}), kOp,
                "{}; expected the recv_grad of its stage before it", here());
  }

  void touch(MicroBatchState& state, int64_t v, Place place) {
    const StreamValue& value = stream_.values[static_cast<size_t>(v)];
    Place& last = state.last_touch[static_cast<size_t>(v)];
    AXIAL_CHECK(last.action >= 0, kOp,
                "{}; expected block {}, which writes '{}', to run, or its output to be received, before it",
                here(), value.producer, value.name);
    last = place;
  }

  // What leaves is there; find_moves() has seen to it that nobody uses it before it is back.
  void move(const Action& action, MicroBatchState& state) {
    if (action.kind == ActionKind::kFetch || action.kind == ActionKind::kJoin) return;
    AXIAL_CHECK(state.groups[static_cast<size_t>(action.group)] == GroupState::kBorder, kOp,
                "{}; expected a forward without graph before it", here());
    for (const int64_t v : schedule_.moves[static_cast<size_t>(at_)]) touch(state, v, {at_, 0});
  }

  // Where a plan fetches parts, each gather takes those of one fetch.
  void fetch(const Action& action) {
    const bool fetches = action.kind == ActionKind::kFetchParts;
    if (fetches || (fetches_ && action.kind == ActionKind::kGather)) {
      std::vector<bool>::reference fetched = fetched_[static_cast<size_t>(action.group)];
      AXIAL_CHECK(
          fetched != fetches, kOp, "{}; expected {}", here(),
          fetches ? "no fetch of its parts before it that no gather took" : "a fetch of its parts before it");
      fetched = fetches;
    }
    if (fetches) return;
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
        if (stream_.values[static_cast<size_t>(v)].producer != kFromBatch) touch(state, v, place);
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
      AXIAL_CHECK(!fetched_[g], kOp, "plan leaves out the gather of what it fetched of g{}", g);
      check_passed_on(g);
    }
  }

  void check_passed_on(size_t g) const {
    const auto [begin, end] = stages_[g];
    for (size_t m = 0; m < states_.size(); ++m) {
      const auto done = [&](ActionKind kind, int64_t border) {
        return states_[m].transfers.contains({kind, border});
      };
      AXIAL_CHECK(end == num_blocks() || done(ActionKind::kSend, end), kOp,
                  "plan leaves out the send of mb{} behind block {}", m, end - 1);
      AXIAL_CHECK(use_ != PlanUse::kTraining || begin == 0 || done(ActionKind::kSendGrad, begin), kOp,
                  "plan leaves out the send_grad of mb{} before block {}", m, begin);
    }
  }

  const Stream& stream_;
  const StepPlan& plan_;
  PlanUse use_;
  bool gathers_;
  bool fetches_ = false;
  std::vector<int64_t> gathered_;           // per group: gathers not yet released
  std::vector<bool> fetched_;               // per group: parts that no gather took yet
  std::vector<std::vector<bool>> reduced_;  // per group and micro-batch
  std::vector<std::set<size_t>> readers_;
  std::vector<BlockRange> stages_;  // per group
  std::vector<MicroBatchState> states_;
  Schedule schedule_;
  int64_t at_ = 0;
};

}  // namespace

Schedule schedule_plan(const Stream& stream, const StepPlan& plan, int64_t num_micro_batches, PlanUse use,
                       bool gathers, bool pipeline) {
  return Simulation(stream, plan, num_micro_batches, use, gathers, pipeline).run();
}

}  // namespace axial::parallel
