// SPDX-License-Identifier: Apache-2.0
// Message assembly for check.h, out of line so that a check costs its caller one branch.
#include "axial/core/check/check.h"

namespace axial::detail {

std::string located(std::string_view op, std::string_view text) { return fmt::format("[{}] {}", op, text); }

void debug_check_failed(const char* condition, const char* file, int line) {
  throw std::logic_error(fmt::format("[internal] {} does not hold at {}:{}", condition, file, line));
}

}  // namespace axial::detail
