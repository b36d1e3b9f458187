// SPDX-License-Identifier: Apache-2.0
// Places of offloads and fetches in a plan, and what they move.
#include "axial/parallel/step/offload_actions.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

using Name = std::pair<int64_t, int64_t>;  // micro-batch and group

// Places of what a rank computes, one after the other: a recompute and its backward are one.
std::vector<size_t> computations(const std::vector<Action>& actions) {
  std::vector<size_t> out;
  for (size_t i = 0; i < actions.size(); ++i) {
    const ActionKind kind = actions[i].kind;
    const bool follows = kind == ActionKind::kBackward && !out.empty() &&
                         actions[out.back()].kind == ActionKind::kRecompute &&
                         actions[out.back()].micro_batch == actions[i].micro_batch &&
                         actions[out.back()].group == actions[i].group;
    if (kind == ActionKind::kForward || kind == ActionKind::kRecompute || kind == ActionKind::kBackward) {
      if (!follows) out.push_back(i);
    }
  }
  return out;
}

// What takes away and what brings back.
struct Pair {
  ActionKind away, back;
  const char *away_name, *back_name;
  const char* article;  // of the first
};
constexpr Pair kPairs[] = {{ActionKind::kOffload, ActionKind::kFetch, "offload", "fetch", "an"},
                           {ActionKind::kCut, ActionKind::kJoin, "cut", "join", "a"}};

// The moves of one micro-batch.
class Moves {
 public:
  Moves(const Stream& stream, const StepPlan& plan, const Pair& pair, std::vector<std::vector<int64_t>>& out)
      : stream_(stream), plan_(plan), pair_(pair), out_(out) {}

  void find(const std::vector<size_t>& actions) {
    std::set<int64_t> in_graphs;     // read or written by a group that keeps its graph
    std::map<int64_t, size_t> away;  // group -> what took it away, until it is brought back
    for (size_t k = 0; k < actions.size(); ++k) {
      const Action& action = plan_.actions[actions[k]];
      if (action.kind == ActionKind::kForward && action.keep_graph) {
        const std::set<int64_t> used = touched(action);
        in_graphs.insert(used.begin(), used.end());
      }
      if (action.kind == pair_.away) {
        check(!away.contains(action.group), action, "no", pair_.away_name, "of the group before it");
        away[action.group] = actions[k];
        out_[actions[k]] = moved(actions, k, in_graphs);
      }
      if (action.kind == pair_.back) {
        check(away.contains(action.group), action, pair_.article, pair_.away_name, "before it");
        out_[actions[k]] = out_[away.at(action.group)];
        away.erase(action.group);
      }
      if (action.kind == ActionKind::kRecompute) {
        check(!away.contains(action.group), action, "a", pair_.back_name, "before it");
      }
    }
    for (const auto& [group, index] : away) {
      check(false, plan_.actions[index], "a", pair_.back_name, "behind it");
    }
  }

 private:
  void check(bool holds, const Action& action, const char* article, const char* kind,
             const char* where) const {
    AXIAL_CHECK(holds, "step_plan", "'{}'; expected {} {} {}", to_string(plan_, action), article, kind,
                where);
  }

  BlockRange blocks_of(const Action& action) const {
    return plan_.groups.at(static_cast<size_t>(action.group));
  }

  // Versions that an action reads, writes, sends or receives. A backward uses those of its graph.
  std::set<int64_t> touched(const Action& action) const {
    std::set<int64_t> out;
    if (action.kind == ActionKind::kSend || action.kind == ActionKind::kRecv) {
      const BlockRange range = blocks_of(action);
      const bool sends = action.kind == ActionKind::kSend;
      const auto across = versions_across(stream_, sends ? range.end : range.begin);
      out.insert(across.begin(), across.end());
    } else if (action.kind == ActionKind::kForward || action.kind == ActionKind::kRecompute) {
      for (int64_t b = blocks_of(action).begin; b < blocks_of(action).end; ++b) {
        for (const auto* versions : {&stream_.reads, &stream_.writes}) {
          const auto& own = (*versions)[static_cast<size_t>(b)];
          out.insert(own.begin(), own.end());
        }
      }
    }
    return out;
  }

  // Of what takes away, actions[k]: what its group reads of others and nobody touches until it is back.
  std::vector<int64_t> moved(const std::vector<size_t>& actions, size_t k,
                             const std::set<int64_t>& in_graphs) const {
    const Action& offload = plan_.actions[actions[k]];
    const BlockRange range = blocks_of(offload);
    std::set<int64_t> candidates;
    for (int64_t b = range.begin; b < range.end; ++b) {
      for (const int64_t v : stream_.reads[static_cast<size_t>(b)]) {
        const int64_t producer = stream_.values[static_cast<size_t>(v)].producer;
        if (producer != kFromBatch && producer < range.begin && !in_graphs.contains(v)) candidates.insert(v);
      }
    }
    for (size_t i = k + 1; i < actions.size(); ++i) {
      const Action& action = plan_.actions[actions[i]];
      if (action.kind == pair_.back && action.group == offload.group) break;
      for (const int64_t v : touched(action)) candidates.erase(v);
    }
    return {candidates.begin(), candidates.end()};
  }

  const Stream& stream_;
  const StepPlan& plan_;
  const Pair& pair_;
  std::vector<std::vector<int64_t>>& out_;
};

}  // namespace

void add_moves(StepPlan& plan, bool cuts, bool offloads) {
  const std::vector<size_t> places = computations(plan.actions);
  std::map<Name, size_t> forwards;               // their place among the computations
  std::map<size_t, std::vector<Action>> before;  // what comes before an action
  for (size_t u = 0; u < places.size(); ++u) {
    const Action& action = plan.actions[places[u]];
    const Name name{action.micro_batch, action.group};
    if (action.kind == ActionKind::kForward) forwards[name] = u;
    if (action.kind != ActionKind::kRecompute || u - forwards.at(name) <= 2) continue;
    const auto add = [&](bool wanted, size_t place, ActionKind kind) {
      if (wanted) before[place].push_back({kind, name.first, name.second});
    };
    add(cuts, places[forwards.at(name)] + 1, ActionKind::kCut);
    add(offloads, places[forwards.at(name)] + 1, ActionKind::kOffload);
    add(offloads, places[cuts ? u - 2 : u - 1], ActionKind::kFetch);
    add(cuts, places[u - 1], ActionKind::kJoin);
  }
  std::vector<Action> actions;
  for (size_t i = 0; i < plan.actions.size(); ++i) {
    if (const auto found = before.find(i); found != before.end()) {
      actions.insert(actions.end(), found->second.begin(), found->second.end());
    }
    actions.push_back(plan.actions[i]);
  }
  plan.actions = std::move(actions);
}

std::vector<std::vector<int64_t>> find_moves(const Stream& stream, const StepPlan& plan) {
  std::vector<std::vector<int64_t>> moves(plan.actions.size());
  std::map<int64_t, std::vector<size_t>> of_micro_batch;
  for (size_t i = 0; i < plan.actions.size(); ++i) of_micro_batch[plan.actions[i].micro_batch].push_back(i);
  for (const Pair& pair : kPairs) {
    const auto is_move = [&](const Action& a) { return a.kind == pair.away || a.kind == pair.back; };
    if (std::none_of(plan.actions.begin(), plan.actions.end(), is_move)) continue;
    for (const auto& [m, actions] : of_micro_batch) Moves(stream, plan, pair, moves).find(actions);
  }
  return moves;
}

}  // namespace axial::parallel
