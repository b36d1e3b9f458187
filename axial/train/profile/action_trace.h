// SPDX-License-Identifier: Apache-2.0
// The actions of steps on a time line, in the trace format of Chrome (chrome://tracing, ui.perfetto.dev):
// what `axial train --trace` writes, one file per rank.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "axial/parallel/step/runner.h"

namespace axial::train {

/// Records while it lives what the runner does; one at a time per runner. Two lines per rank: compute
/// (forward, recompute, backward) and memory and ranks (gather, release, reduce, free; where a call starts,
/// not how long its bytes travel).
class ActionTraceFile {
 public:
  ActionTraceFile(parallel::StepRunner& runner, int64_t rank);
  ActionTraceFile(const ActionTraceFile&) = delete;
  ActionTraceFile& operator=(const ActionTraceFile&) = delete;
  ~ActionTraceFile();

  /// Written atomically; throws IoError.
  void write(const std::filesystem::path& file) const;

 private:
  parallel::StepRunner& runner_;
  int64_t rank_;
  nlohmann::json events_ = nlohmann::json::array();
};

}  // namespace axial::train
