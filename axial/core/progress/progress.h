// SPDX-License-Identifier: Apache-2.0
// One line that tells how far a long job is: share done, rate, time left. Used by every command.
//
// On a terminal one line is rewritten in place; elsewhere (a log file, a pipe) a whole line is printed
// every few seconds. Log messages (core/log) first clear the rewritten line, so the two never mix.
#pragma once

#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

namespace axial {

/// How progress is shown. `kAutomatic` asks the stream whether it is a terminal, and is quiet where the log
/// tells errors alone.
enum class ProgressStyle { kAutomatic, kTerminal, kPlain, kQuiet };

/// What a Progress counts and where it writes.
struct ProgressOptions {
  std::string label;                 ///< first word of the line, for example "train"
  std::string unit = "items";        ///< what is counted, plural: "steps", "tokens", "records"
  int64_t total = 0;                 ///< 0: unknown, then there is no share and no time left
  int64_t start = 0;                 ///< done before this process (resume); not part of the rate
  double plain_interval_s = 5.0;     ///< time between two lines when not on a terminal
  double terminal_interval_s = 0.1;  ///< time between two redraws on a terminal
  double quiet_s = 0.0;              ///< a job that ends before leaves no line at all
  ProgressStyle style = ProgressStyle::kAutomatic;
  std::FILE* stream = stderr;     ///< not owned; must outlive the Progress
  std::function<double()> clock;  ///< seconds, never falling; empty: the steady clock
};

/// Reports a job's progress; thread-safe. The destructor closes an unfinished line without claiming success.
class Progress {
 public:
  explicit Progress(ProgressOptions options);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  /// `done` items are complete; `note` follows the rate, for example "loss 3.912". Cheap when not due.
  void update(int64_t done, std::string_view note = "");
  /// `by` more items are complete.
  void advance(int64_t by, std::string_view note = "");
  /// Print the last line (count, time taken, mean rate) and end it. Later calls do nothing.
  void finish(std::string_view note = "");

  int64_t done() const;
  /// Items per second over about the last 20 s; 0 before there is any.
  double rate() const;
  /// Seconds to go at that rate; negative when unknown.
  double seconds_left() const;

 private:
  struct Sample {
    double time = 0;
    int64_t done = 0;
  };
  void record(int64_t done, double now);
  void draw(std::string_view note);
  double rate_unlocked() const;
  std::string line(std::string_view note, bool last, size_t width) const;

  ProgressOptions options_;
  ProgressStyle style_ = ProgressStyle::kQuiet;
  std::deque<Sample> window_;
  double started_ = 0;
  double now_ = 0;
  double last_drawn_ = 0;
  int64_t done_ = 0;
  bool finished_ = false;
};

}  // namespace axial
