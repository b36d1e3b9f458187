// SPDX-License-Identifier: Apache-2.0
#include "axial/train/profile/action_trace.h"

#include "axial/core/file/file.h"

namespace axial::train {

namespace {

using parallel::ActionKind;

bool is_compute(ActionKind kind) {
  return kind == ActionKind::kForward || kind == ActionKind::kRecompute || kind == ActionKind::kBackward;
}

}  // namespace

ActionTraceFile::ActionTraceFile(parallel::StepRunner& runner, int64_t rank) : runner_(runner), rank_(rank) {
  const auto name = [&](const char* what, int64_t line, const std::string& text) {
    events_.push_back(
        {{"ph", "M"}, {"pid", rank_}, {"tid", line}, {"name", what}, {"args", {{"name", text}}}});
  };
  name("process_name", 0, "rank " + std::to_string(rank_));
  name("thread_name", 0, "compute");
  name("thread_name", 1, "memory and ranks");
  runner_.set_trace(
      [this](const parallel::StepPlan& plan, const parallel::Action& action, double begin_s, double end_s) {
        events_.push_back({{"ph", "X"},  // a complete event; microseconds
                           {"pid", rank_},
                           {"tid", is_compute(action.kind) ? 0 : 1},
                           {"name", to_string(plan, action)},
                           {"ts", begin_s * 1e6},
                           {"dur", (end_s - begin_s) * 1e6}});
      });
}

ActionTraceFile::~ActionTraceFile() { runner_.set_trace({}); }

void ActionTraceFile::write(const std::filesystem::path& file) const {
  write_file_atomically(file, nlohmann::json{{"traceEvents", events_}, {"displayTimeUnit", "ms"}}.dump());
}

}  // namespace axial::train
