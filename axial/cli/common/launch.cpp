// SPDX-License-Identifier: Apache-2.0
// fork and exec, the variables of torchrun, pipes for what later ranks say, and an end for everybody.
#include "axial/cli/common/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/parallel/communicator/rank_process.h"
#include "axial/parallel/communicator/world.h"

namespace axial::cli {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

// After one rank has failed the others find out by themselves; who has not ended then is made to. A rank that
// is stopped (SIGSTOP) will not, and is not waited for once it is the last.
constexpr seconds kPatience{20}, kLastPatience{10};

struct Rank {
  pid_t pid = -1;
  int errors = -1;   // read end of its stderr; -1: it writes to ours
  std::string line;  // begun, not ended
  bool stopped = false;
  std::optional<int> status;
};

volatile std::sig_atomic_t wanted_signal = 0;
void note_signal(int signal) { wanted_signal = signal; }

std::vector<std::string> own_arguments() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::string> out;
  for (size_t at = 0; at < all.size();) {
    out.emplace_back(all.c_str() + at);
    at += out.back().size() + 1;
  }
  return out;
}

std::vector<std::string> environment_of(int64_t rank, int64_t count, uint16_t port) {
  parallel::Variables variables = parallel::rank_variables(rank, count, port);
  const auto threads = std::max<int64_t>(1, std::thread::hardware_concurrency() / count);
  variables.emplace("OMP_NUM_THREADS", std::to_string(threads));
  // Waiting threads of one rank would take the time of another.
  variables.emplace("OMP_WAIT_POLICY", "passive");
  variables.insert_or_assign(kLaunched, std::to_string(count));
  return parallel::assignments(variables);
}

Rank start(int64_t rank, int64_t count, uint16_t port) {
  std::vector<std::string> arguments = own_arguments();
  std::vector<std::string> environment = environment_of(rank, count, port);
  const std::vector<char*> argv = parallel::exec_strings(arguments),
                           envp = parallel::exec_strings(environment);
  int ends[2] = {-1, -1};
  AXIAL_CHECK(rank == 0 || ::pipe2(ends, O_CLOEXEC) == 0, "ranks", "a pipe for rank {} cannot be made: {}",
              rank, std::strerror(errno));
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  AXIAL_CHECK(pid >= 0, "ranks", "rank {} cannot be started: {}", rank, std::strerror(errno));
  if (pid == 0) {  // only calls that are safe after a fork of threads
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::setpgid(0, 0);  // Ctrl-C comes to the parent, which passes it on once
    if (rank != 0) ::dup2(ends[1], STDERR_FILENO);
    ::execve("/proc/self/exe", argv.data(), envp.data());
    ::_exit(127);
  }
  if (rank != 0) ::close(ends[1]);
  return {pid, ends[0], {}, false, std::nullopt};
}

// Later ranks: each line once, whoever says it first.
class Errors {
 public:
  void read(std::vector<Rank>& ranks) {
    std::vector<pollfd> files;
    for (const Rank& rank : ranks) {
      if (rank.errors >= 0) files.push_back({rank.errors, POLLIN, 0});
    }
    ::poll(files.data(), files.size(), 50);
    for (const pollfd& file : files) {
      if (file.revents == 0) continue;
      const auto rank =
          std::find_if(ranks.begin(), ranks.end(), [&](const Rank& r) { return r.errors == file.fd; });
      char text[4096];
      const ssize_t count = ::read(file.fd, text, sizeof text);
      if (count > 0) rank->line.append(text, static_cast<size_t>(count));
      print_lines(rank - ranks.begin(), rank->line, count <= 0);
      if (count > 0) continue;
      ::close(file.fd);
      rank->errors = -1;
    }
  }

 private:
  void print_lines(int64_t rank, std::string& text, bool last) {
    for (size_t end = 0; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
      print(rank, text.substr(0, end));
    }
    if (last && !text.empty()) print(rank, text);
  }
  void print(int64_t rank, const std::string& line) {
    if (said_.insert(line).second) fmt::print(stderr, "rank {}: {}\n", rank, line);
  }
  std::set<std::string> said_;
};

int code_of(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

void signal_all(const std::vector<Rank>& ranks, int signal) {
  for (const Rank& rank : ranks) {
    if (!rank.status) ::kill(rank.pid, signal);
  }
}

int wait_for(std::vector<Rank>& ranks, parallel::StoreHost& store) {
  Errors errors;
  int code = 0;
  std::optional<Clock::time_point> failed;
  bool asked = false;
  for (auto left = static_cast<int64_t>(ranks.size()); left > 0;) {
    errors.read(ranks);
    if (const int signal = std::exchange(wanted_signal, 0); signal != 0) {
      signal_all(ranks, signal);
      if (signal == SIGTSTP) {  // Ctrl-Z: all stop, and go on with this process
        ::raise(SIGSTOP);
        signal_all(ranks, SIGCONT);
      }
    }
    for (size_t r = 0; r < ranks.size(); ++r) {
      int status = 0;
      if (ranks[r].status ||
          ::waitpid(ranks[r].pid, &status, WNOHANG | WUNTRACED | WCONTINUED) != ranks[r].pid) {
        continue;
      }
      ranks[r].stopped = WIFSTOPPED(status);
      if (WIFSTOPPED(status) || WIFCONTINUED(status)) continue;
      ranks[r].status = status;
      left -= 1;
      if (code_of(status) == 0) continue;
      if (WIFSIGNALED(status) && !asked) {
        const std::string reason = fmt::format("rank {} was killed by signal {} ({})", r, WTERMSIG(status),
                                               strsignal(WTERMSIG(status)));
        fmt::print(stderr, "error: {}\n", reason);
        store.post_failure(reason);
      }
      if (code == 0) code = code_of(status);
      if (!failed) failed = Clock::now();
    }
    if (!failed || left == 0) continue;
    if (std::all_of(ranks.begin(), ranks.end(), [](const Rank& r) { return r.stopped || r.status; })) {
      asked = true;
      signal_all(ranks, SIGKILL);
    }
    if (Clock::now() > *failed + kPatience && !std::exchange(asked, true)) signal_all(ranks, SIGTERM);
    if (Clock::now() > *failed + kPatience + kLastPatience) signal_all(ranks, SIGKILL);
  }
  errors.read(ranks);
  return code;
}

}  // namespace

int launch_ranks(int64_t count) {
  parallel::StoreHost store;
  struct sigaction note = {};
  note.sa_handler = note_signal;
  ::sigaction(SIGINT, &note, nullptr);
  ::sigaction(SIGTERM, &note, nullptr);
  ::sigaction(SIGTSTP, &note, nullptr);
  std::vector<Rank> ranks;
  for (int64_t rank = 0; rank < count; ++rank) ranks.push_back(start(rank, count, store.port()));
  return wait_for(ranks, store);
}

}  // namespace axial::cli
