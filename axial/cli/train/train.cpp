// SPDX-License-Identifier: Apache-2.0
// `axial train`: recipe + FASTA -> a run folder with checkpoints, metrics and a curve; goes on where it
// stopped.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/ranks.h"
#include "axial/cli/common/registry.h"
#include "axial/cli/train/step_watch.h"
#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/log/log.h"
#include "axial/core/text/table.h"
#include "axial/core/text/text.h"
#include "axial/models/common/parallelize.h"
#include "axial/optim/schedule/schedule.h"
#include "axial/train/plan/plan.h"
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
  std::filesystem::path from;
  std::vector<std::string> overrides;
  bool overwrite = false;
  bool keys = false;
  int64_t profile = 0;
  int64_t trace = 0;
  RanksArguments ranks;
};

// The recipe of the run that the folder holds already, when it is the same run; throws when it is another.
std::optional<RunRecipe> same_run_in(const std::filesystem::path& folder, const RunRecipe& recipe) {
  const std::filesystem::path path = folder / train::kRecipeFile;
  if (!std::filesystem::exists(path)) return std::nullopt;
  auto before = recipe::parse<RunRecipe>(recipe::load_text(read_file(path), path.string()));
  const std::vector<std::string> conflicts = train::recipe_conflicts(before, recipe);
  AXIAL_CHECK(
      conflicts.empty(), "train",
      "'{}' holds another run (key: saved, now): {}; expected another --out, or --overwrite to replace it",
      folder.string(), fmt::join(conflicts, "; "));
  return before;
}

// The schedule is a function of the step and of the number of all steps: another end is another curve.
void warn_of_bent_schedule(const RunRecipe& before, const RunRecipe& now, int64_t step) {
  const optim::ScheduleOptions& schedule = now.train.schedule;
  const double planned = optim::schedule_factor(schedule, step, before.train.steps);
  const double actual = optim::schedule_factor(schedule, step, now.train.steps);
  if (before.train.steps == now.train.steps || schedule.kind == "constant") return;
  log()->warn(
      "train.steps was {} and is {}: the {} schedule bends after step {}, where the learning rate goes from "
      "{:.3g} to {:.3g} of its peak; a run of {} steps from the start would have learned otherwise",
      before.train.steps, now.train.steps, schedule.kind, step, planned, actual, now.train.steps);
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

// What the lists of all ranks come to, run without data before anything is trained.
void print_plan(const RunRecipe& recipe, const models::ModelRegistry& registry,
                const data::Tokenizer& tokenizer, int64_t world_size) {
  const auto roles = train::plan_step(train::step_of(recipe, registry, tokenizer, world_size));
  const auto most = std::max_element(
      roles.begin(), roles.end(), [](const auto& a, const auto& b) { return a.peak_bytes < b.peak_bytes; });
  const std::string where = world_size == 1 ? "" : fmt::format(" on rank {}", most->ranks.front());
  fmt::print("a step takes at most {} of tensors{}, {} of them kept between steps\n",
             human_bytes(most->peak_bytes), where, human_bytes(most->resident_bytes));
}

// The model that a new run starts from, checked.
train::LoadedModel origin_of(const Arguments& arguments, const models::Model& model,
                             parallel::Communicator* ranks, const RunRecipe& recipe) {
  train::LoadOptions options;
  options.ranks = ranks;
  auto origin = train::describe_model(arguments.from, models::all_models(), options);
  AXIAL_CHECK(origin.damage.empty(), "train", "--from: {}", origin.damage);
  train::check_can_start_from(origin.model, model, models::all_models());
  const std::string kind =
      origin.tokenizer.is_null() ? recipe.data.tokenizer.kind : origin.tokenizer.value("kind", std::string());
  AXIAL_CHECK(kind == recipe.data.tokenizer.kind, "train",
              "--from: {} has another tokenizer; expected {}, got {}", origin.source,
              recipe.data.tokenizer.kind, kind);
  return origin;
}

// Resume the run of the folder if there is one; false when it has more steps behind it than are asked for.
// A new one has taken the weights of --from already, but for one that stopped before its first checkpoint.
bool go_on(train::Trainer& trainer, const std::optional<RunRecipe>& before, const RunRecipe& recipe,
           std::optional<train::LoadedModel> origin, const Arguments& arguments) {
  if (!trainer.resume()) {
    if (!origin && !arguments.from.empty()) {
      origin = origin_of(arguments, trainer.model(), &trainer.runner().communicator(), recipe);
      trainer.start_from(origin->weights);
    }
    if (origin) fmt::print("starting from {}\n", origin->source);
    return true;
  }
  if (!arguments.from.empty()) {
    log()->warn("--from is left alone: the run in '{}' goes on with its own weights", arguments.out.string());
  }
  const int64_t step = trainer.state().step;
  if (step > recipe.train.steps) {
    fmt::print("the run is at step {} already, train.steps is {}: nothing to do, nothing changed\n",
               with_commas(step), with_commas(recipe.train.steps));
    return false;
  }
  if (before) warn_of_bent_schedule(*before, recipe, step);
  if (before && before->train.threads != recipe.train.threads) {
    log()->warn("train.threads was {} and is {}: the last bits of the losses may differ from one run through",
                before->train.threads, recipe.train.threads);
  }
  fmt::print("going on after step {}\n", with_commas(step));
  return true;
}

int train_on(parallel::World& world, const Arguments& arguments) {
  const RunRecipe recipe = train::read_run_recipe(arguments.recipe, arguments.overrides, arguments.data);
  // Whatever can be refused without the data is refused first: reading them may take hours.
  const auto ranks =
      world.make_communicator(parallel::make_mesh(recipe.parallel, world.size(), world.rank()));
  const bool first = world.rank() == 0;
  train::TrainerInputs inputs;
  inputs.model =
      train::build_model(recipe, models::all_models(), *data::make_tokenizer(recipe.data.tokenizer));
  models::parallelize(inputs.model, models::all_models(), ranks->mesh(), recipe.parallel,
                      recipe.train.sharded_row_length(recipe.data.sequence_length));
  const auto sequence = parallel::SequenceLayout::over(ranks->mesh(), recipe.data.sequence_length);
  inputs.ranks = {ranks.get(), recipe.parallel, sequence};
  const models::ModelRegistry registry = models::all_models();
  inputs.registry = &registry;
  if (first && !arguments.overwrite) same_run_in(arguments.out, recipe);
  // A run that is there goes on without its origin, which may be gone.
  const bool is_new =
      arguments.overwrite || !std::filesystem::exists(arguments.out / train::kCheckpointsFolder);
  std::optional<train::LoadedModel> origin;
  if (is_new && !arguments.from.empty()) origin = origin_of(arguments, inputs.model, ranks.get(), recipe);
  if (recipe.train.schedule.warmup_steps >= recipe.train.steps) {
    log()->warn("train.schedule.warmup_steps is {}: the {} steps end before the warm-up does",
                recipe.train.schedule.warmup_steps, recipe.train.steps);
  }
  data::GenomeData genomes;
  world.first_alone([&] {
    genomes = data::open_genome_data(recipe.data, static_cast<uint64_t>(recipe.train.seed), sequence);
  });
  print_report(genomes.report);
  if (first) print_plan(recipe, registry, *genomes.tokenizer, world.size());
  inputs.training = genomes.train.get();
  inputs.validation = genomes.validation.get();
  inputs.tokenizer = genomes.tokenizer->to_json();
  inputs.data = identity_of(genomes.report);
  inputs.title = arguments.out.filename().string();

  StepProfile profile(arguments.profile);
  StepTrace* tracing = nullptr;
  inputs.on_step = [&](int64_t, const train::StepOutcome&) {
    profile.after_step();
    tracing->after_step();
  };
  std::optional<RunFolder> folder;
  std::optional<RunRecipe> before;
  world.first_alone([&] {
    if (first) make_parent(arguments.out / "x");
    folder.emplace(first ? RunFolder(arguments.out) : RunFolder::of_first_rank(arguments.out));
    if (first && !arguments.overwrite) before = same_run_in(folder->path(), recipe);  // now under the lock
  });
  train::Trainer trainer(std::move(inputs), recipe.train, *folder);
  StepTrace trace(arguments.trace, arguments.out, trainer);  // goes before the trainer that it watches
  tracing = &trace;
  if (origin)
    trainer.start_from(origin->weights);  // before anything is erased: it may be what they are read from
  world.first_alone([&] {
    if (first && arguments.overwrite) folder->erase_run();  // now that the new run is there in memory
  });
  if (!go_on(trainer, before, recipe, std::move(origin), arguments)) return 0;
  if (first) {  // only now is it sure that the run goes on with it
    folder->save_recipe(train::resolved_text(train::with_absolute_paths(recipe)));
  }
  std::fflush(stdout);
  const TrainResult result = trainer.run();
  profile.print();
  trace.finish();
  print_summary(result, trainer.model(), folder->path() / "loss.svg");
  if (result.signal == 0) return 0;
  log()->warn("stopped by signal {} after step {}; the same command goes on", result.signal, result.step);
  return 128 + result.signal;
}

int run(const Arguments& arguments) {
  if (arguments.keys) {
    fmt::print("{}", train::describe_recipe(models::all_models()));
    return 0;
  }
  return run_on_ranks(arguments.ranks, [&](parallel::World& world) { return train_on(world, arguments); });
}

}  // namespace

void register_train(CommandRegistry& registry) {
  registry.add("train", "Train a model from a recipe", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    command.add_option("RECIPE", arguments->recipe, "YAML file, for example recipes/genome_25m.yaml")
        ->option_text("TEXT REQUIRED");  // not required(): --keys goes without it
    command.add_option(
        "--data", arguments->data,
        "FASTA files, folders or patterns; replaces data.files and data.mixture of the recipe");
    command.add_option("--out", arguments->out, "run folder; a run in it goes on")
        ->option_text("TEXT REQUIRED");
    command.add_option(
        "--from", arguments->from,
        "run, checkpoint or Hugging Face folder of the same architecture, whose weights a new run "
        "starts from");
    command.add_option("--set", arguments->overrides, "override a key of the recipe: a.b=c; repeatable")
        ->take_all()
        ->allow_extra_args(false);
    command.add_flag("--overwrite", arguments->overwrite, "replace the run in the folder");
    arguments->ranks.declare(command);
    command
        .add_option("--profile", arguments->profile,
                    "measure N steps, validation between them included, and print where the time goes, by op")
        ->check(CLI::Range(0, 1'000'000));
    command
        .add_option(
            "--trace", arguments->trace,
            "write the actions of N steps to trace_rank*.json in the run folder, for chrome://tracing")
        ->check(CLI::Range(0, 10'000));
    command.add_flag("--keys", arguments->keys, "list every key of a recipe with its default and meaning");
    command.footer(
        "Examples:\n"
        "  axial train recipes/genome_25m.yaml --data genes.fasta --out runs/first\n"
        "  axial train recipes/genome_25m.yaml --data 'genomes/*.fna.gz' --out runs/second \\\n"
        "      --set train.steps=20000 --set train.precision=bf16 --set model.position=alibi\n"
        "  axial train recipes/genome_25m.yaml --data genes.fasta --out runs/two --ranks 2 \\\n"
        "      --set parallel.zero=2\n"
        "  torchrun --no-python --nproc-per-node 2 axial train recipes/genome_25m.yaml --data genes.fasta "
        "\\\n"
        "      --out runs/two\n"
        "  axial train recipes/genome_25m.yaml --data genes.fasta --out runs/tuned --from runs/first \\\n"
        "      --set train.optimizer.learning_rate=1e-4\n"
        "  axial train --keys\n"
        "Ctrl-C saves and leaves; the same command goes on. So does it after a crash.\n"
        "Beside other work on the same cores, OMP_WAIT_POLICY=passive keeps waiting threads from taking "
        "time.");
    command.callback([arguments] {
      if (arguments->keys) return;
      if (arguments->recipe.empty()) throw CLI::RequiredError("RECIPE");
      if (arguments->out.empty()) throw CLI::RequiredError("--out");
    });
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
