// SPDX-License-Identifier: Apache-2.0
// One rank's side: its world, its silence, its last words. The side that starts ranks is launch.cpp.
#include "axial/cli/common/ranks.h"

#include <cstdio>
#include <cstdlib>

#include "axial/cli/common/launch.h"
#include "axial/core/check/check.h"
#include "axial/core/log/log.h"

namespace axial::cli {

namespace {

// Results and progress are the first rank's to tell; errors everybody's.
void be_quiet() {
  if (std::freopen("/dev/null", "w", stdout) == nullptr) log()->error("stdout cannot be closed");
  set_log_level("error");
}

}  // namespace

void RanksArguments::declare(CLI::App& command) {
  command
      .add_option("--ranks", ranks,
                  "run on N processes of this machine; parallel: (recipe or --set) splits the work")
      ->check(CLI::Range(1, 1024));
  command.add_option("--timeout", timeout_s, "seconds after which a rank that does not come is given up")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
}

int run_on_ranks(const RanksArguments& arguments, const std::function<int(parallel::World&)>& work) {
  const bool started = std::getenv("RANK") != nullptr;  // NOLINT(concurrency-mt-unsafe): before any thread
  if (arguments.ranks > 0 && started && std::getenv(kLaunched) == nullptr) {  // NOLINT(concurrency-mt-unsafe)
    fail("ranks", "--ranks {} under torchrun, which has started its own; expected one of the two",
         arguments.ranks);
  }
  if (arguments.ranks > 1 && !started) return launch_ranks(arguments.ranks);
  parallel::World::Options options;
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(arguments.timeout_s * 1000));
  auto world = parallel::World::from_environment(options);
  if (world.rank() != 0) be_quiet();
  try {
    return work(world);
  } catch (const parallel::CollectiveError&) {
    throw;  // somebody else's fault, which is named already
  } catch (const std::exception& error) {
    world.post_failure(error.what());
    throw;
  }
}

}  // namespace axial::cli
