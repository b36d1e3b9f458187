// SPDX-License-Identifier: Apache-2.0
// Ranks go on in turns, each until it has to wait.
#include "axial/parallel/step/simulate.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "pipe";

// Messages over one border, one way.
struct Line {
  std::vector<int64_t> micro_batches;  // sent so far
  std::vector<double> sent, taken;     // when
};

struct Rank {
  const StepPlan* plan = nullptr;
  size_t at = 0;
  double clock = 0, busy = 0;
  int64_t held = 0, peak = 0;
  std::map<std::pair<int64_t, int64_t>, int64_t> bytes;  // of a micro-batch and group
};

class World {
 public:
  World(const std::vector<StepPlan>& plans, const PlanCosts& costs) : costs_(costs) {
    for (const StepPlan& plan : plans) ranks_.push_back({&plan, 0, 0, 0, 0, 0, {}});
  }

  PipelineRun run() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (Rank& rank : ranks_) {
        while (rank.at < rank.plan->actions.size() && step(rank, rank.plan->actions[rank.at])) {
          ++rank.at;
          moved = true;
        }
      }
    }
    check_ended();
    PipelineRun out;
    for (const Rank& rank : ranks_) {
      out.time = std::max(out.time, rank.clock);
      out.busy.push_back(rank.busy);
      out.peak_bytes.push_back(rank.peak);
    }
    return out;
  }

 private:
  // False: has to wait.
  bool step(Rank& rank, const Action& action) {
    switch (action.kind) {
      case ActionKind::kForward:
      case ActionKind::kRecompute:
      case ActionKind::kBackward:
        compute(rank, action);
        return true;
      case ActionKind::kSend:
      case ActionKind::kSendGrad:
        return send(rank, action);
      case ActionKind::kRecv:
      case ActionKind::kRecvGrad:
        return receive(rank, action);
      case ActionKind::kOffload:
      case ActionKind::kFetch:
        hold(rank, action, action.kind == ActionKind::kFetch ? costs_.border_bytes : nullptr);
        return true;
      default:
        return true;
    }
  }

  static BlockRange blocks_of(const Rank& rank, const Action& action) {
    return rank.plan->groups.at(static_cast<size_t>(action.group));
  }

  void compute(Rank& rank, const Action& action) const {
    const BlockRange blocks = blocks_of(rank, action);
    const double time = costs_.time ? costs_.time(action.kind, blocks) : 0;
    rank.clock += time;
    rank.busy += time;
    const bool keeps = action.kind == ActionKind::kRecompute || action.keep_graph;
    const bool frees = action.kind == ActionKind::kBackward;
    hold(rank, action, frees ? nullptr : keeps ? costs_.graph_bytes : costs_.border_bytes);
  }

  // From here on the group of a micro-batch holds so much; none: nothing.
  static void hold(Rank& rank, const Action& action, const std::function<int64_t(const BlockRange&)>& bytes) {
    int64_t& held = rank.bytes[{action.micro_batch, action.group}];
    const int64_t now = bytes ? bytes(blocks_of(rank, action)) : 0;
    rank.held += now - held;
    held = now;
    rank.peak = std::max(rank.peak, rank.held);
  }

  static std::pair<int64_t, bool> line_of(const Rank& rank, const Action& action) {
    const BlockRange blocks = blocks_of(rank, action);
    const bool before = action.kind == ActionKind::kRecv || action.kind == ActionKind::kSendGrad;
    const bool grads = action.kind == ActionKind::kSendGrad || action.kind == ActionKind::kRecvGrad;
    return {before ? blocks.begin : blocks.end, grads};
  }

  bool send(Rank& rank, const Action& action) {
    Line& line = lines_[line_of(rank, action)];
    const auto limit = static_cast<size_t>(messages_in_flight(*rank.plan, action));
    if (limit > 0 && line.sent.size() >= limit) {
      const size_t oldest = line.sent.size() - limit;
      if (line.taken.size() <= oldest) return false;
      rank.clock = std::max(rank.clock, line.taken[oldest]);
    }
    line.micro_batches.push_back(action.micro_batch);
    line.sent.push_back(rank.clock);
    return true;
  }

  bool receive(Rank& rank, const Action& action) {
    const auto name = line_of(rank, action);
    Line& line = lines_[name];
    const size_t next = line.taken.size();
    if (line.sent.size() <= next) return false;
    AXIAL_CHECK(line.micro_batches[next] == action.micro_batch, kOp,
                "message over the border at block {}{}; expected micro-batch {}, as '{}' says, got {}",
                name.first, name.second ? ", of gradients" : "", action.micro_batch,
                to_string(*rank.plan, action), line.micro_batches[next]);
    rank.clock = std::max(rank.clock, line.sent[next]);
    line.taken.push_back(rank.clock);
    return true;
  }

  void check_ended() const {
    std::string where;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const Rank& rank = ranks_[r];
      if (rank.at == rank.plan->actions.size()) continue;
      where += fmt::format("; rank {} at action {} '{}'", r, rank.at,
                           to_string(*rank.plan, rank.plan->actions[rank.at]));
    }
    AXIAL_CHECK(where.empty(), kOp, "ranks wait for each other for ever{}", where);
    for (const auto& [name, line] : lines_) {
      AXIAL_CHECK(line.taken.size() == line.sent.size(), kOp,
                  "messages over the border at block {}{}; expected all {} to be received, got {}",
                  name.first, name.second ? ", of gradients" : "", line.sent.size(), line.taken.size());
    }
  }

  const PlanCosts& costs_;
  std::vector<Rank> ranks_;
  std::map<std::pair<int64_t, bool>, Line> lines_;
};

}  // namespace

double PipelineRun::bubble_fraction() const {
  const double all = time * static_cast<double>(busy.size());
  return all == 0 ? 0 : 1 - std::accumulate(busy.begin(), busy.end(), 0.0) / all;
}

PipelineRun simulate_pipeline(const std::vector<StepPlan>& plans, const PlanCosts& costs) {
  return World(plans, costs).run();
}

}  // namespace axial::parallel
