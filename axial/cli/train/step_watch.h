// SPDX-License-Identifier: Apache-2.0
// What --profile and --trace do beside a run. Used by train.cpp.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "axial/core/log/log.h"
#include "axial/train/profile/action_trace.h"
#include "axial/train/profile/op_profile.h"
#include "axial/train/trainer/trainer.h"

namespace axial::cli {

/// Measures steps of a run where its ops spend the time, once the first steps have warmed everything up.
class StepProfile {
 public:
  explicit StepProfile(int64_t steps) : steps_(steps) {}

  void after_step() {
    if (steps_ <= 0) return;
    done_ += 1;
    if (done_ == kWarmUp) profile_ = std::make_unique<train::OpProfile>();
    if (done_ != kWarmUp + steps_) return;
    text_ = profile_->render(steps_);
    profile_.reset();
  }

  void print() const {
    if (steps_ <= 0) return;
    if (!text_.empty()) fmt::print("\nprofile of {} steps\n{}", steps_, text_);
    if (text_.empty()) log()->warn("no profile: the run ended before step {} of it", kWarmUp + steps_);
  }

 private:
  static constexpr int64_t kWarmUp = 3;
  int64_t steps_ = 0;
  int64_t done_ = 0;
  std::unique_ptr<train::OpProfile> profile_;
  std::string text_;
};

/// Records the actions of steps, once the first ones have warmed everything up.
class StepTrace {
 public:
  StepTrace(int64_t steps, std::filesystem::path folder, train::Trainer& trainer)
      : steps_(steps), folder_(std::move(folder)), trainer_(trainer) {}

  void after_step() {
    if (steps_ <= 0) return;
    done_ += 1;
    const int64_t rank = trainer_.runner().communicator().mesh().rank();
    if (done_ == kWarmUp) trace_ = std::make_unique<train::ActionTraceFile>(trainer_.runner(), rank);
    if (done_ != kWarmUp + steps_) return;
    trace_->write(folder_ / fmt::format("trace_rank{}.json", rank));
    trace_.reset();
  }

  void finish() const {
    if (trace_ || (steps_ > 0 && done_ < kWarmUp)) {
      log()->warn("no trace: the run ended before step {} of it", kWarmUp + steps_);
    }
  }

 private:
  static constexpr int64_t kWarmUp = 2;
  int64_t steps_ = 0;
  std::filesystem::path folder_;
  train::Trainer& trainer_;
  int64_t done_ = 0;
  std::unique_ptr<train::ActionTraceFile> trace_;
};

}  // namespace axial::cli
