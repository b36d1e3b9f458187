// SPDX-License-Identifier: Apache-2.0
// How a command reaches the program: its folder defines `register_<command>(CommandRegistry&)`, and the
// build collects them. No shared list is edited.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace axial::cli {

/// Exit codes of the program, beside 0.
enum ExitCode : int {
  kExitError = 1,        ///< the work was not done; the reason is on stderr
  kExitUsage = 2,        ///< the command line is wrong
  kExitInterrupt = 130,  ///< SIGINT: saved and left
  kExitTerminate = 143,  ///< SIGTERM: saved and left
};

/// The commands of the program.
class CommandRegistry {
 public:
  explicit CommandRegistry(CLI::App& app) : app_(app) {}

  /// Add a command: `define` declares its options on the subcommand it is given (examples go into the
  /// footer) and returns the function that does the work once the line is parsed; its result is the exit
  /// code.
  void add(const std::string& name, const std::string& summary,
           const std::function<std::function<int()>(CLI::App&)>& define);

  /// Exit code of the command that was asked for.
  int run() const;

 private:
  CLI::App& app_;
  std::map<std::string, std::function<int()>> commands_;
};

/// Generated from the folders of axial/cli.
void register_all(CommandRegistry& registry);

/// The whole program: parse, run, turn every exception into one line on stderr and an exit code.
int run_program(int argc, char** argv);

}  // namespace axial::cli
