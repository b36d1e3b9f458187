// SPDX-License-Identifier: Apache-2.0
// What a run tells while it goes on: metrics.jsonl, TensorBoard events, the progress line, the loss curve.
// The trainer owns one.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "axial/core/progress/progress.h"
#include "axial/train/checkpoint/checkpoint.h"
#include "axial/train/evaluate/evaluate.h"
#include "axial/train/metrics/curve.h"
#include "axial/train/metrics/event_file.h"
#include "axial/train/metrics/metrics_log.h"
#include "axial/train/trainer/training_step.h"

namespace axial::train {

/// Bytes of this process that are in memory now; 0 where the system does not say.
int64_t resident_bytes();

/// (Re)write <folder>/loss.svg from its metrics.jsonl.
void write_loss_curve(const std::filesystem::path& folder, const std::string& title,
                      const std::vector<CurveBaseline>& baselines);

/// See above.
class RunReport {
 public:
  /// Start anew, or go on behind `resumed_step` (-1: anew). Without `writes` (a rank that is not the first)
  /// only time is kept.
  RunReport(const std::filesystem::path& folder, int64_t resumed_step, int64_t steps, bool show_progress,
            bool writes = true);

  /// A step is done; a line is written when `log` says so.
  void step(const RunState& state, const StepOutcome& outcome, bool log);
  void validation(const RunState& state, const Evaluation& evaluation);
  /// Time since this call until the next step() is not training time.
  void pause();
  void resume() { since_ = Clock::now(); }
  /// Make what was written durable.
  void sync() {
    if (metrics_) metrics_->sync();
  }
  void finish();
  /// Seconds spent in steps by this process.
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  void write(const MetricsRow& row);

  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<EventFile> events_;
  std::unique_ptr<Progress> progress_;
  Clock::time_point since_ = Clock::now();
  double seconds_ = 0;         // in steps, until since_
  double logged_seconds_ = 0;  // at the last line
  int64_t interval_tokens_ = 0;
};

}  // namespace axial::train
