// SPDX-License-Identifier: Apache-2.0
// The spdlog logger behind log.h: stderr, colour on a terminal, a short pattern.
#include "axial/core/log/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <string>

#include "axial/core/check/check.h"

namespace axial {

spdlog::logger* log() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made =
        std::make_shared<spdlog::logger>("axial", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
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
