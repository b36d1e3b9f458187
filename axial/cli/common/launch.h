// SPDX-License-Identifier: Apache-2.0
// Starts this program once per rank and stays until all are gone.
#pragma once

#include <cstdint>

namespace axial::cli {

/// Set in the processes that launch_ranks started.
inline constexpr const char* kLaunched = "AXIAL_LAUNCHED";

/// See run_on_ranks (ranks.h). The store lives in this process, so that it outlasts every rank.
int launch_ranks(int64_t count);

}  // namespace axial::cli
