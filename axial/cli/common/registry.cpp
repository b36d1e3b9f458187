// SPDX-License-Identifier: Apache-2.0
// The program around the commands: parsing, the nearest command for a misspelt one, error reporting.
#include "axial/cli/common/registry.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <new>

#include "axial/core/check/check.h"
#include "axial/core/log/log.h"
#include "axial/core/text/text.h"

namespace axial::cli {
namespace {

int report(const std::string& message, int code) {
  fmt::print(stderr, "error: {}\n", message);
  return code;
}

// CLI11 says only that extra arguments were given; a person wants the command or option they meant.
std::string nearest_hint(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back(command->get_name());
  }
  if (argc > 1 && argv[1][0] != '-' &&
      std::find(commands.begin(), commands.end(), argv[1]) == commands.end()) {
    return fmt::format("unknown command '{}'{} (axial --help lists the commands)", argv[1],
                       did_you_mean(argv[1], commands));
  }
  return "";
}

int parse_failure(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);  // --help
  const std::string hint = nearest_hint(app, argc, argv);
  const std::string command = app.get_subcommands().empty() ? "" : " " + app.get_subcommands()[0]->get_name();
  return report(
      hint.empty() ? fmt::format("{} (axial{} --help shows the options)", error.what(), command) : hint,
      kExitUsage);
}

}  // namespace

void CommandRegistry::add(const std::string& name, const std::string& summary,
                          const std::function<std::function<int()>(CLI::App&)>& define) {
  CLI::App* command = app_.add_subcommand(name, summary);
  commands_[name] = define(*command);
}

int CommandRegistry::run() const {
  for (const CLI::App* command : app_.get_subcommands()) return commands_.at(command->get_name())();
  return kExitUsage;
}

int run_program(int argc, char** argv) {
  CLI::App app("Axial trains and runs science models that do not fit the ordinary tools.", "axial");
  app.require_subcommand(1);
  std::string level = "info";
  app.add_option("--log-level", level, "debug, info, warning, error or off")->capture_default_str();
  app.set_version_flag("--version", AXIAL_VERSION);
  app.footer("Start with:\n  axial train recipes/genome_25m.yaml --data genes.fasta --out runs/first");
  CommandRegistry registry(app);
  register_all(registry);
  std::signal(SIGXFSZ, SIG_IGN);  // a file too large is an error of the write, not a death
  try {
    app.parse(argc, argv);
    set_log_level(level);
    return registry.run();
  } catch (const CLI::ParseError& error) {
    return parse_failure(app, error, argc, argv);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kExitError);
  } catch (const c10::Error& error) {
    return report(error.what_without_backtrace(), kExitError);
  } catch (const std::exception& error) {
    return report(error.what(), kExitError);
  }
}

}  // namespace axial::cli
