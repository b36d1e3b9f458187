// SPDX-License-Identifier: Apache-2.0
// Commands over several ranks: `--ranks N` starts them on this machine, torchrun anywhere; either way the
// command's work is the same function of its World.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>

#include "axial/parallel/communicator/world.h"

namespace axial::cli {

/// What the user said about ranks.
struct RanksArguments {
  int64_t ranks = 0;       ///< 0: not said
  double timeout_s = 600;  ///< of a collective

  /// Declare --ranks and --timeout.
  void declare(CLI::App& command);
};

/// Run `work` as one rank of the world that torchrun or `--ranks` set up, or as the only one. With --ranks,
/// where none is set up, start this program N times and wait: a rank that dies is named to the others, which
/// stop within the timeout, and none outlives this call. Ranks after the first print errors only. Exit code:
/// that of the work; of the rank that failed first. Throws ValueError for --ranks beside torchrun.
int run_on_ranks(const RanksArguments& arguments, const std::function<int(parallel::World&)>& work);

}  // namespace axial::cli
