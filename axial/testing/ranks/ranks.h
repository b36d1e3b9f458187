// SPDX-License-Identifier: Apache-2.0
// Tests over several ranks: each is a process of its own, the test program started again for the same test.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "axial/parallel/communicator/world.h"

namespace axial::testing {

/// How a rank ended.
struct RankOutcome {
  int exit_code = 0;     ///< 0: the body returned; 1: it threw
  int signal = 0;        ///< that killed it; SIGKILL too when the time was up, or it was left stopped
  bool overdue = false;  ///< it was killed because the time was up
  std::string message;   ///< of what it threw

  bool ok() const { return exit_code == 0 && signal == 0; }
};

struct RanksOptions {
  std::chrono::milliseconds collective_timeout = std::chrono::seconds(60);
  std::chrono::milliseconds limit = std::chrono::seconds(240);  ///< of the whole launch
  bool compare_calls = true;
  bool connect_sends = false;  ///< World::Options
};

/// Run `body` on `size` ranks, one thread each, and wait for all. Call it at most once
/// per test, from the test's body, before anything that matters: in the child processes it does not return.
std::vector<RankOutcome> run_ranks(int64_t size, const std::function<void(parallel::World&)>& body,
                                   const RanksOptions& options = {});

/// Empty when every rank is ok, else what went wrong, a line per rank.
std::string failures(const std::vector<RankOutcome>& outcomes);

/// Throws Error with this text unless `ok`: what a body uses in place of EXPECT.
void require(bool ok, const std::string& text);

}  // namespace axial::testing
