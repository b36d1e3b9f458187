// SPDX-License-Identifier: Apache-2.0
// One logger for warnings and news, on stderr, over spdlog. Libraries return or throw; only cli and
// train report through here.
#pragma once

#include <spdlog/spdlog.h>

#include <functional>
#include <string_view>

namespace axial {

/// Set the level: "debug", "info", "warning", "error", "off"; throws ValueError for another word.
void set_log_level(std::string_view level);

/// The logger; thread-safe. Use as `log()->warn("...", ...)` with fmt format strings.
spdlog::logger* log();

/// Call `before` ahead of every message that is written: core/progress clears its line there.
/// Replaces the former one; an empty function removes it. `before` must not log.
void set_before_log(std::function<void()> before);

}  // namespace axial
