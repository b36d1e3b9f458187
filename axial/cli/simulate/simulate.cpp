// SPDX-License-Identifier: Apache-2.0
// `axial simulate genomes`: coding sequences of an exactly known law, for demos and tests without data.
#include "axial/data/simulate/simulate.h"

#include <fmt/format.h>

#include <cmath>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/progress/progress.h"
#include "axial/core/recipe/recipe.h"

namespace axial::cli {
namespace {

struct Arguments {
  std::filesystem::path out;
  std::vector<std::string> overrides;
  bool keys = false;
};

void print_set(const char* name, const data::SimulatedSet& set) {
  fmt::print("{}: {} SIMULATED records, {} tokens -> {}\n", name, set.records, set.tokens, set.path.string());
  fmt::print(
      "  true entropy rate {:.4f} nats = {:.4f} bits per token (+- {:.4f} nats); no model can be below "
      "perplexity {:.4f}\n",
      set.nats, set.nats / std::log(2.0), set.standard_error, set.perplexity);
}

int run(const Arguments& arguments) {
  if (arguments.keys) {
    fmt::print("{}", recipe::describe<data::SimulateOptions>());
    return 0;
  }
  recipe::Node root = recipe::Node::section();
  for (const std::string& assignment : arguments.overrides) recipe::apply_override(root, assignment);
  const auto options = recipe::parse<data::SimulateOptions>(root);
  make_parent(arguments.out);
  Progress progress({.label = "simulate",
                     .unit = "families",
                     .total = options.train_families + options.validation_families});
  const data::Simulation made =
      data::simulate_genomes(options, arguments.out, [&](int64_t families) { progress.update(families); });
  progress.finish();
  print_set("train", made.train);
  print_set("validation", made.validation);
  fmt::print("process and truth -> {}\n", made.sidecar.string());
  return 0;
}

}  // namespace

void register_simulate(CommandRegistry& registry) {
  registry.add("simulate", "Make data of a known law", [](CLI::App& command) {
    command.require_subcommand(1);
    CLI::App* genomes = command.add_subcommand("genomes", "Coding sequences that evolved on random trees");
    auto arguments = std::make_shared<Arguments>();
    genomes
        ->add_option("--out", arguments->out,
                     "prefix: writes PREFIX.train.fasta, PREFIX.validation.fasta, PREFIX.json")
        ->option_text("TEXT REQUIRED");  // not required(): --keys goes without it
    genomes->add_option("--set", arguments->overrides, "override a key: members=2; repeatable")
        ->take_all()
        ->allow_extra_args(false);
    genomes->add_flag("--keys", arguments->keys, "list every key with its default and meaning");
    genomes->callback([arguments] {
      if (!arguments->keys && arguments->out.empty()) throw CLI::RequiredError("--out");
    });
    const char* examples =
        "Examples:\n"
        "  axial simulate genomes --out data/simulated\n"
        "  axial simulate genomes --out data/small --set train_families=100 --set process.echo=0.5\n"
        "  axial simulate genomes --keys";
    command.footer(examples);
    genomes->footer(examples);  // else it inherits the program's
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
