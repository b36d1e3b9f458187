// SPDX-License-Identifier: Apache-2.0
// The spdlog logger behind log.h: stderr, colour on a terminal, a short pattern.
#include "axial/core/log/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <mutex>
#include <string>
#include <utility>

#include "axial/core/check/check.h"

namespace axial {
namespace {

std::mutex hook_mutex;
std::function<void()> before_log;  // guarded by hook_mutex

/// spdlog's stderr sink, which first lets a progress line make room.
class RoomMakingSink : public spdlog::sinks::ansicolor_stderr_sink<spdlog::details::console_mutex> {
 public:
  void log(const spdlog::details::log_msg& message) override {
    {
      const std::lock_guard lock(hook_mutex);
      if (before_log) before_log();
    }
    ansicolor_stderr_sink::log(message);
  }
};

}  // namespace

void set_before_log(std::function<void()> before) {
  const std::lock_guard lock(hook_mutex);
  before_log = std::move(before);
}

spdlog::logger* log() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>("axial", std::make_shared<RoomMakingSink>());
    made->set_pattern("%^%l%$: %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return logger.get();
}

void set_log_level(std::string_view level) {
  const auto parsed = spdlog::level::from_str(std::string(level));
  AXIAL_CHECK(parsed != spdlog::level::off || level == "off", "log",
              "unknown level '{}'; expected debug, info, warning, error or off", level);
  log()->set_level(parsed);
}

}  // namespace axial
