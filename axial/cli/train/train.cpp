// SPDX-License-Identifier: Apache-2.0
// `axial train`: recipe + FASTA -> a run folder with checkpoints, metrics and a curve; goes on where it
// stopped.
#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/check/check.h"
#include "axial/core/log/log.h"
#include "axial/core/text/table.h"
#include "axial/core/text/text.h"
#include "axial/train/profile/op_profile.h"
#include "axial/train/recipe/run_recipe.h"
#include "axial/train/run_folder/run_folder.h"
#include "axial/train/trainer/trainer.h"

namespace axial::cli {
namespace {

using train::RunFolder;
using train::RunRecipe;
using train::TrainResult;

struct Arguments {
  std::filesystem::path recipe;
  std::vector<std::string> data;
  std::filesystem::path out;
  std::vector<std::string> overrides;
  bool overwrite = false;
  bool keys = false;
  int64_t profile = 0;
};

// Measures steps of a run where its ops spend the time, once the first steps have warmed everything up.
class StepProfile {
 public:
  explicit StepProfile(int64_t steps) : steps_(steps) {}

  void after_step() {
    if (steps_ <= 0) return;
    done_ += 1;
    if (done_ == kWarmUp) profile_ = std::make_unique<train::OpProfile>();
    if (done_ != kWarmUp + steps_) return;
    text_ = profile_->render(steps_);
    profile_.reset();
  }

  void print() const {
    if (steps_ <= 0) return;
    if (!text_.empty()) fmt::print("\nprofile of {} steps\n{}", steps_, text_);
    if (text_.empty()) log()->warn("no profile: the run ended before step {} of it", kWarmUp + steps_);
  }

 private:
  static constexpr int64_t kWarmUp = 3;
  int64_t steps_ = 0;
  int64_t done_ = 0;
  std::unique_ptr<train::OpProfile> profile_;
  std::string text_;
};

// Save the recipe of a new run; check that a run in the folder is the same one.
void claim_folder(const RunFolder& folder, const RunRecipe& recipe, bool overwrite) {
  if (overwrite) folder.erase_run();
  const std::string saved = folder.saved_recipe();
  if (!saved.empty()) {
    const auto before =
        recipe::parse<RunRecipe>(recipe::load_text(saved, (folder.path() / train::kRecipeFile).string()));
    const std::vector<std::string> conflicts = train::recipe_conflicts(before, recipe);
    AXIAL_CHECK(
        conflicts.empty(), "train",
        "'{}' holds another run (key: saved, now): {}; expected another --out, or --overwrite to replace it",
        folder.path().string(), fmt::join(conflicts, "; "));
  }
  folder.save_recipe(train::resolved_text(recipe));
}

nlohmann::json identity_of(const data::GenomeReport& report) {
  return {{"records", report.records}, {"tokens", report.tokens}, {"content", report.content}};
}

void print_summary(const TrainResult& result, const models::Model& model,
                   const std::filesystem::path& curve) {
  TextTable table({{"run"}, {"", Align::kRight}});
  table.add_row({"parameters", with_commas(model.parameters->num_elements())});
  table.add_row({"steps", with_commas(result.step)});
  if (result.skipped_steps > 0) table.add_row({"skipped steps", with_commas(result.skipped_steps)});
  table.add_row({"tokens", with_commas(result.tokens)});
  table.add_row({"training time", human_duration(result.seconds)});
  if (result.seconds > 0) {
    table.add_row(
        {"tokens/s", with_commas(std::llround(static_cast<double>(result.tokens) / result.seconds))});
  }
  if (std::isfinite(result.last_loss))
    table.add_row({"last training loss", fmt::format("{:.4f}", result.last_loss)});
  if (result.best_validation_loss) {
    table.add_row({"best validation loss", fmt::format("{:.4f}", *result.best_validation_loss)});
    table.add_row(
        {"best validation perplexity", fmt::format("{:.4f}", std::exp(*result.best_validation_loss))});
    table.add_row({"at step", with_commas(result.best_step)});
  }
  fmt::print("\n{}\ncheckpoint: {}\ncurve: {}\n", table.render(), result.checkpoint.string(), curve.string());
}

int run(const Arguments& arguments) {
  if (arguments.keys) {
    fmt::print("{}", recipe::describe<RunRecipe>());
    return 0;
  }
  const RunRecipe recipe = train::read_run_recipe(arguments.recipe, arguments.overrides, arguments.data);
  data::GenomeData genomes = data::open_genome_data(recipe.data, static_cast<uint64_t>(recipe.train.seed));
  print_report(genomes.report);
  train::TrainerInputs inputs;
  inputs.model = train::build_model(recipe, models::all_models(), *genomes.tokenizer);
  inputs.training = genomes.train.get();
  inputs.validation = genomes.validation.get();
  inputs.tokenizer = genomes.tokenizer->to_json();
  inputs.data = identity_of(genomes.report);
  inputs.title = arguments.out.filename().string();

  StepProfile profile(arguments.profile);
  inputs.on_step = [&profile](int64_t, const train::StepOutcome&) { profile.after_step(); };
  make_parent(arguments.out / "x");
  RunFolder folder(arguments.out);
  claim_folder(folder, recipe, arguments.overwrite);
  train::Trainer trainer(std::move(inputs), recipe.train, folder);
  if (trainer.resume()) fmt::print("going on after step {}\n", with_commas(trainer.state().step));
  std::fflush(stdout);
  const TrainResult result = trainer.run();
  profile.print();
  print_summary(result, trainer.model(), folder.path() / "loss.svg");
  if (result.signal == 0) return 0;
  log()->warn("stopped by signal {} after step {}; the same command goes on", result.signal, result.step);
  return 128 + result.signal;
}

}  // namespace

void register_train(CommandRegistry& registry) {
  registry.add("train", "Train a model from a recipe", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    command.add_option("RECIPE", arguments->recipe, "YAML file, for example recipes/genome_25m.yaml")
        ->option_text("TEXT REQUIRED");  // not required(): --keys goes without it
    command.add_option("--data", arguments->data,
                       "FASTA files, folders or patterns; replaces data.files of the recipe");
    command.add_option("--out", arguments->out, "run folder; a run in it goes on")
        ->option_text("TEXT REQUIRED");
    command.add_option("--set", arguments->overrides, "override a key of the recipe: a.b=c; repeatable")
        ->take_all()
        ->allow_extra_args(false);
    command.add_flag("--overwrite", arguments->overwrite, "replace the run in the folder");
    command
        .add_option("--profile", arguments->profile, "measure N steps and print where the time goes, by op")
        ->check(CLI::Range(0, 1'000'000));
    command.add_flag("--keys", arguments->keys, "list every key of a recipe with its default and meaning");
    command.footer(
        "Examples:\n"
        "  axial train recipes/genome_25m.yaml --data genes.fasta --out runs/first\n"
        "  axial train recipes/genome_25m.yaml --data 'genomes/*.fna.gz' --out runs/second \\\n"
        "      --set train.steps=20000 --set train.precision=bf16 --set model.position=alibi\n"
        "  axial train --keys\n"
        "Ctrl-C saves and leaves; the same command goes on. So does it after a crash.");
    command.callback([arguments] {
      if (arguments->keys) return;
      if (arguments->recipe.empty()) throw CLI::RequiredError("RECIPE");
      if (arguments->out.empty()) throw CLI::RequiredError("--out");
    });
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
