// SPDX-License-Identifier: Apache-2.0
// fork and exec of this program with --gtest_filter: torch's thread pools do not survive a fork alone.
#include "axial/testing/ranks/ranks.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "axial/parallel/communicator/rank_process.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::testing {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kRank = "AXIAL_TEST_RANK";
constexpr const char* kFolder = "AXIAL_TEST_RANKS_FOLDER";

fs::path message_file(const fs::path& folder, int64_t rank) {
  return folder / ("rank" + std::to_string(rank) + ".txt");
}

[[noreturn]] void be_rank(int64_t rank, int64_t size, const fs::path& folder,
                          const std::function<void(parallel::World&)>& body, const RanksOptions& options) {
  at::set_num_threads(1);
  int code = 0;
  const auto say = [&](const std::string& what) {
    std::ofstream(message_file(folder, rank)) << what;
    code = 1;
  };
  try {
    auto world = parallel::World::from_environment(
        {options.collective_timeout, options.compare_calls, options.connect_sends});
    require(world.rank() == rank && world.size() == size, "another world than the test asked for");
    try {
      body(world);
    } catch (const parallel::CollectiveError& error) {
      say(error.what());
    } catch (const std::exception& error) {
      const std::string what = error.what();
      say(what.substr(0, what.find("\nException raised from")));
      world.post_failure(what);
    }
  } catch (const std::exception& error) {
    say(error.what());
  }
  std::fflush(nullptr);
  _exit(code);  // no destructors of a test that was left in its middle
}

std::vector<std::string> environment_of(int64_t rank, int64_t size, const fs::path& folder, uint16_t port) {
  parallel::Variables variables = parallel::rank_variables(rank, size, port);
  variables.insert_or_assign(kRank, std::to_string(rank));
  variables.insert_or_assign(kFolder, folder.string());
  variables.insert_or_assign("OMP_NUM_THREADS", std::string("1"));
  return parallel::assignments(variables);
}

pid_t start(int64_t rank, int64_t size, const fs::path& folder, uint16_t port) {
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::vector<std::string> arguments{
      fs::read_symlink("/proc/self/exe").string(),
      std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name()};
  std::vector<std::string> environment = environment_of(rank, size, folder, port);
  const std::vector<char*> argv = parallel::exec_strings(arguments),
                           envp = parallel::exec_strings(environment);
  const std::string output = (folder / ("rank" + std::to_string(rank) + ".log")).string();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  const int file = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  dup2(file, STDOUT_FILENO);
  execve("/proc/self/exe", argv.data(), envp.data());
  _exit(127);
}

RankOutcome outcome_of(int status, const fs::path& message, bool overdue) {
  RankOutcome outcome;
  outcome.overdue = overdue;
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  std::ostringstream text;
  text << std::ifstream(message).rdbuf();
  outcome.message = text.str();
  return outcome;
}

}  // namespace

std::vector<RankOutcome> run_ranks(int64_t size, const std::function<void(parallel::World&)>& body,
                                   const RanksOptions& options) {
  if (const char* rank = std::getenv(kRank))
    be_rank(std::atoll(rank), size, std::getenv(kFolder), body, options);
  const TemporaryFolder folder;
  const parallel::StoreHost store;  // here, so that it outlasts any rank
  std::vector<pid_t> pids;
  for (int64_t rank = 0; rank < size; ++rank) pids.push_back(start(rank, size, folder.path(), store.port()));
  std::vector<RankOutcome> outcomes(static_cast<size_t>(size));
  std::vector<bool> done(static_cast<size_t>(size), false);
  const Clock::time_point end = Clock::now() + options.limit;
  size_t num_stopped = 0;
  for (size_t left = pids.size(); left > 0;) {
    const bool overdue = Clock::now() > end;
    const bool give_up = overdue || num_stopped == left;  // a stopped rank is left alone while others run
    for (size_t r = 0; r < pids.size(); ++r) {
      if (done[r]) continue;
      if (give_up) kill(pids[r], SIGKILL);
      int status = 0;
      if (waitpid(pids[r], &status, give_up ? 0 : WNOHANG | WUNTRACED) != pids[r]) continue;
      if (WIFSTOPPED(status)) {
        num_stopped += 1;
        continue;
      }
      outcomes[r] = outcome_of(status, message_file(folder.path(), static_cast<int64_t>(r)), overdue);
      done[r] = true;
      left -= 1;
    }
    if (left > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return outcomes;
}

std::string failures(const std::vector<RankOutcome>& outcomes) {
  std::ostringstream text;
  for (size_t r = 0; r < outcomes.size(); ++r) {
    if (outcomes[r].ok()) continue;
    text << "rank " << r << ": exit code " << outcomes[r].exit_code << ", signal " << outcomes[r].signal
         << (outcomes[r].overdue ? " (time was up)" : "") << ": " << outcomes[r].message << "\n";
  }
  return text.str();
}

void require(bool ok, const std::string& text) {
  if (!ok) throw Error(text);
}

}  // namespace axial::testing
