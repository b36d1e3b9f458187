// SPDX-License-Identifier: Apache-2.0
// One logger for warnings and news, on stderr, over spdlog. Libraries return or throw; only cli and
// train report through here.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

namespace axial {

/// Set the level: "debug", "info", "warning", "error", "off"; throws ValueError for another word.
void set_log_level(std::string_view level);

/// The logger; thread-safe. Use as `log()->warn("...", ...)` with fmt format strings.
spdlog::logger* log();

}  // namespace axial
