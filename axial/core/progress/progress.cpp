// SPDX-License-Identifier: Apache-2.0
// Drawing and rate estimation of progress.h. One mutex guards all lines of the process, because they
// share one terminal.
#include "axial/core/progress/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>

#include "axial/core/check/check.h"
#include "axial/core/log/log.h"
#include "axial/core/text/text.h"

namespace axial {
namespace {

constexpr double kRateWindow_s = 20.0;
constexpr double kSampleSpacing_s = 0.25;
constexpr size_t kBarWidth = 20;
constexpr std::string_view kClearLine = "\r\033[K";

std::mutex line_mutex;
std::FILE* drawn_on = nullptr;  // the terminal that holds an unfinished line; guarded by line_mutex

void write_now(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
}

void clear_drawn_line() {
  const std::lock_guard lock(line_mutex);
  if (drawn_on) write_now(drawn_on, kClearLine);
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t terminal_width(std::FILE* stream) {
  winsize size{};
  if (::ioctl(::fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string bar(double share) {
  const auto full = static_cast<size_t>(share * kBarWidth);
  return fmt::format("[{}{}]", std::string(full, '#'), std::string(kBarWidth - full, '.'));
}

}  // namespace

Progress::Progress(ProgressOptions options) : options_(std::move(options)) {
  AXIAL_CHECK(options_.stream != nullptr, "progress", "no stream to write to");
  AXIAL_CHECK(options_.total >= 0 && options_.start >= 0, "progress",
              "total {} and start {}; expected both to be at least 0", options_.total, options_.start);
  if (!options_.clock) options_.clock = steady_seconds;
  style_ = options_.style;
  if (style_ == ProgressStyle::kAutomatic) {
    const bool terminal = ::isatty(::fileno(options_.stream)) != 0;
    style_ = terminal ? ProgressStyle::kTerminal : ProgressStyle::kPlain;
    if (!log()->should_log(spdlog::level::warn)) style_ = ProgressStyle::kQuiet;  // errors alone are wanted
  }
  if (style_ == ProgressStyle::kTerminal) set_before_log(clear_drawn_line);
  done_ = options_.start;
  started_ = now_ = last_drawn_ = options_.clock();
  window_.push_back({started_, done_});
}

Progress::~Progress() {
  const std::lock_guard lock(line_mutex);
  if (drawn_on == options_.stream && !finished_ && style_ == ProgressStyle::kTerminal) {
    write_now(options_.stream, "\n");
    drawn_on = nullptr;
  }
}

void Progress::update(int64_t done, std::string_view note) {
  const std::lock_guard lock(line_mutex);
  if (finished_) return;
  record(done, options_.clock());
  draw(note);
}

void Progress::advance(int64_t by, std::string_view note) {
  const std::lock_guard lock(line_mutex);
  if (finished_) return;
  record(done_ + by, options_.clock());
  draw(note);
}

void Progress::finish(std::string_view note) {
  const std::lock_guard lock(line_mutex);
  if (finished_) return;
  finished_ = true;
  now_ = options_.clock();
  if (style_ == ProgressStyle::kQuiet || now_ - started_ < options_.quiet_s) return;
  const bool terminal = style_ == ProgressStyle::kTerminal;
  const std::string text = line(note, true, std::string::npos);
  write_now(options_.stream, fmt::format("{}{}\n", terminal ? kClearLine : "", text));
  if (terminal) drawn_on = nullptr;
}

void Progress::record(int64_t done, double now) {
  done_ = done;
  now_ = now;
  if (now - window_.back().time < kSampleSpacing_s) return;
  window_.push_back({now, done});
  while (window_.size() > 2 && window_[1].time < now - kRateWindow_s) window_.pop_front();
}

void Progress::draw(std::string_view note) {
  if (style_ == ProgressStyle::kQuiet || now_ - started_ < options_.quiet_s) return;
  const bool terminal = style_ == ProgressStyle::kTerminal;
  const double interval = terminal ? options_.terminal_interval_s : options_.plain_interval_s;
  if (now_ - last_drawn_ < interval) return;
  last_drawn_ = now_;
  if (terminal) {
    const size_t width = terminal_width(options_.stream) - 1;
    write_now(options_.stream, fmt::format("{}{}", kClearLine, line(note, false, width)));
    drawn_on = options_.stream;
  } else {
    write_now(options_.stream, line(note, false, std::string::npos) + "\n");
  }
}

double Progress::rate_unlocked() const {
  const double time = now_ - window_.front().time;
  return time > 0 ? static_cast<double>(done_ - window_.front().done) / time : 0.0;
}

int64_t Progress::done() const {
  const std::lock_guard lock(line_mutex);
  return done_;
}

double Progress::rate() const {
  const std::lock_guard lock(line_mutex);
  return rate_unlocked();
}

double Progress::seconds_left() const {
  const std::lock_guard lock(line_mutex);
  const double rate = rate_unlocked();
  if (options_.total <= 0 || rate <= 0) return -1.0;
  return static_cast<double>(std::max<int64_t>(options_.total - done_, 0)) / rate;
}

std::string Progress::line(std::string_view note, bool last, size_t width) const {
  const double elapsed = now_ - started_;
  const double mean = elapsed > 0 ? static_cast<double>(done_ - options_.start) / elapsed : 0.0;
  const double rate = last ? mean : rate_unlocked();
  std::string text = options_.label.empty() ? "" : options_.label + ": ";
  if (options_.total > 0) {
    const double share =
        std::clamp(static_cast<double>(done_) / static_cast<double>(options_.total), 0.0, 1.0);
    if (!last && style_ == ProgressStyle::kTerminal) text += bar(share) + " ";
    text += fmt::format("{}/{} {} ({:.0f}%)", with_commas(done_), with_commas(options_.total), options_.unit,
                        std::floor(share * 100));
  } else {
    text += fmt::format("{} {}", with_commas(done_), options_.unit);
  }
  if (rate > 0) text += fmt::format(", {}/s", human_count(rate));
  if (!note.empty()) text += fmt::format(", {}", note);
  if (last) {
    text += fmt::format(", took {}", human_duration(elapsed));
  } else {
    text += fmt::format(", {}", human_duration(elapsed));
    if (options_.total > 0 && rate > 0) {
      const auto left = static_cast<double>(std::max<int64_t>(options_.total - done_, 0));
      text += fmt::format(" so far, {} to go", human_duration(left / rate));
    }
  }
  if (text.size() > width) text.resize(width);
  return text;
}

}  // namespace axial
