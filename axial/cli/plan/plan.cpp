// SPDX-License-Identifier: Apache-2.0
// `axial plan`: what a run takes on devices that nobody has to have.
#include <fmt/format.h>

#include <optional>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/progress/progress.h"
#include "axial/core/text/text.h"
#include "axial/train/plan/advice.h"
#include "axial/train/plan/sweep.h"

namespace axial::cli {
namespace {

constexpr int64_t kMost = int64_t{1} << 30;  // tokens or rows that a search goes to
constexpr double kQuiet = 5;                 // seconds until progress is told

struct Arguments {
  std::filesystem::path recipe;
  std::vector<std::string> overrides;
  int64_t world = 1;
  std::string device = "a100-40gb";
  std::string work = "train";
  train::WindowOptions windows;
  bool max_sequence = false;
  bool max_batch = false;
  bool sweep = false;
  int64_t sweep_limit = train::SweepOptions().limit;
  int64_t unit = 1024;
  train::EstimateAssumptions assumptions;
  std::filesystem::path json, picture;
};

class Planner {
 public:
  explicit Planner(const Arguments& arguments)
      : arguments_(arguments),
        device_(train::find_device(arguments.device)),
        registry_(models::all_models()) {}

  // Tells how far it is when it takes long.
  train::Plan plan(const std::vector<std::string>& more) const {
    std::vector<std::string> overrides = arguments_.overrides;
    overrides.insert(overrides.end(), more.begin(), more.end());
    std::optional<Progress> progress;
    const train::Plan made = plan(recipe_with(overrides), [&](int64_t done, int64_t total) {
      if (!progress) {
        progress.emplace(
            ProgressOptions{.label = "plan", .unit = "actions", .total = total, .quiet_s = kQuiet});
      }
      progress->update(done);
    });
    if (progress) progress->finish();
    return made;
  }

  train::Plan plan(const train::RunRecipe& recipe,
                   std::function<void(int64_t done, int64_t total)> on_action = nullptr) const {
    train::WorkOfRecipe work{train::PlannedWork::kTraining, arguments_.windows, std::move(on_action)};
    if (arguments_.work == "embed") work.kind = train::PlannedWork::kEmbed;
    if (arguments_.work == "score") work.kind = train::PlannedWork::kScore;
    return train::plan_recipe(recipe, registry_, arguments_.world, device_, work);
  }

  // What to change where `made`, of these further overrides, does not fit.
  std::vector<train::Advice> advise(const train::Plan& made, const std::vector<std::string>& more) const {
    std::vector<std::string> overrides = arguments_.overrides;
    overrides.insert(overrides.end(), more.begin(), more.end());
    std::optional<Progress> progress;
    const auto on_plan = [&](int64_t done, int64_t total) {
      if (!progress) {
        progress.emplace(
            ProgressOptions{.label = "what would help", .unit = "plans", .total = total, .quiet_s = kQuiet});
      }
      progress->update(done);
    };
    auto advice = train::advise(
        recipe_with(overrides), made, [&](const train::RunRecipe& recipe) { return plan(recipe); }, on_plan);
    if (progress) progress->finish();
    return advice;
  }

  train::SweepResult sweep(train::SweepOptions options) const {
    std::optional<Progress> progress;
    options.on_plan = [&](int64_t done, int64_t total, const std::string& next) {
      if (!progress) {
        progress.emplace(
            ProgressOptions{.label = "sweep", .unit = "plans", .total = total, .quiet_s = kQuiet});
      }
      progress->update(done, next);
    };
    auto result =
        train::sweep(recipe_with(arguments_.overrides), registry_, arguments_.world, device_, options);
    if (progress) progress->finish();
    return result;
  }

  int64_t data_ranks() const {
    const train::RunRecipe recipe = recipe_with(arguments_.overrides);
    return parallel::make_mesh(recipe.parallel, arguments_.world, 0).degree("data");
  }

  // The largest multiple of `unit` with which the recipe fits, told as it is looked for.
  int64_t search(int64_t unit, const char* what,
                 const std::function<std::vector<std::string>(int64_t)>& settings) {
    return train::largest_that_fits(unit, kMost, [&](int64_t value) {
      const train::Plan made = plan(settings(value));
      fmt::print("{} {}: {}\n", with_commas(value), what,
                 made.fits() ? fmt::format("fits, {} left", human_bytes(made.spare_bytes()))
                             : fmt::format("does not fit, {} missing", human_bytes(-made.spare_bytes())));
      std::fflush(stdout);
      return made.fits();
    });
  }

 private:
  // A plan reads no data, and the recipe need not name any.
  train::RunRecipe recipe_with(const std::vector<std::string>& overrides) const {
    return train::read_run_recipe(arguments_.recipe, overrides, {"no data"});
  }

  const Arguments& arguments_;
  train::Device device_;
  models::ModelRegistry registry_;
};

std::vector<std::string> with_length(int64_t length) {
  return {fmt::format("data.sequence_length={}", length), fmt::format("model.max_positions={}", length)};
}

int run_sweep(const Planner& planner, const Arguments& arguments) {
  train::SweepOptions options;
  options.limit = arguments.sweep_limit;
  options.assumptions = arguments.assumptions;
  const train::SweepResult result = planner.sweep(options);
  fmt::print("{}", train::sweep_text(result, options));
  if (!arguments.json.empty()) {
    write_file_atomically(arguments.json, train::sweep_json(result, options).dump(1) + "\n");
  }
  return result.best.empty() ? 3 : 0;
}

int run(const Arguments& arguments) {
  AXIAL_CHECK(!(arguments.max_sequence && arguments.max_batch), "plan",
              "--max-sequence and --max-batch; expected one of them, got both");
  for (const auto& file : {arguments.json, arguments.picture}) {
    if (!file.empty()) make_parent(file);  // before minutes of planning
  }
  Planner planner(arguments);
  if (arguments.sweep) return run_sweep(planner, arguments);
  std::vector<std::string> found;
  if (arguments.max_sequence) {
    const int64_t length = planner.search(arguments.unit, "tokens a row", with_length);
    AXIAL_CHECK(length > 0, "plan", "rows of {} tokens do not fit; expected a shorter --unit or another mesh",
                arguments.unit);
    found = with_length(length);
    fmt::print("\nlongest rows: {} tokens\n\n", with_commas(length));
  }
  if (arguments.max_batch) {
    const int64_t sharers = planner.data_ranks();
    const auto with_rows = [sharers](int64_t rows) {
      return std::vector<std::string>{fmt::format("train.micro_batch={}", rows),
                                      fmt::format("train.batch={}", rows * sharers)};
    };
    const int64_t rows = planner.search(1, "rows at a time on each data rank", with_rows);
    AXIAL_CHECK(rows > 0, "plan", "one row at a time does not fit; expected shorter rows or another mesh");
    found = with_rows(rows);
    fmt::print("\nlargest batch: {} rows at a time on each data rank\n\n", with_commas(rows));
  }
  const train::Plan plan = planner.plan(found);
  fmt::print("{}", train::to_text(plan, arguments.assumptions));
  nlohmann::json json = train::to_json(plan, arguments.assumptions);
  if (!plan.fits() && plan.work == train::PlannedWork::kTraining) {
    std::fflush(stdout);
    const std::vector<train::Advice> advice = planner.advise(plan, found);
    fmt::print("\n{}", train::advice_text(advice));
    json["advice"] = train::advice_json(advice);
  }
  if (!arguments.json.empty()) write_file_atomically(arguments.json, json.dump(1) + "\n");
  if (!arguments.picture.empty()) write_file_atomically(arguments.picture, train::to_picture(plan));
  return plan.fits() ? 0 : 3;
}

}  // namespace

void register_plan(CommandRegistry& registry) {
  registry.add("plan", "Say what a run takes, without any device", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    command.add_option("RECIPE", arguments->recipe, "YAML file, for example recipes/genome_25m.yaml")
        ->required();
    command.add_option("--world", arguments->world, "number of devices")->check(CLI::Range(1, 1'000'000));
    command.add_option("--device", arguments->device,
                       fmt::format("{}, or a YAML file", fmt::join(train::device_names(), " | ")));
    command.add_option("--set", arguments->overrides, "override a key of the recipe: a.b=c; repeatable")
        ->take_all()
        ->allow_extra_args(false);
    auto* work =
        command
            .add_option("--for", arguments->work,
                        "what is planned: train | embed | score; inference: one batch of windows, in "
                        "train.precision")
            ->check(CLI::IsMember({"train", "embed", "score"}));
    declare_windows(command, arguments->windows);
    auto* sequence =
        command.add_flag("--max-sequence", arguments->max_sequence, "find the longest rows that fit");
    auto* batch =
        command.add_flag("--max-batch", arguments->max_batch, "find the most rows at a time that fit")
            ->excludes(sequence)
            ->excludes(work);
    sequence->excludes(work);
    command
        .add_flag("--sweep", arguments->sweep,
                  "try meshes of --world devices with settings of memory, and list the best that fit")
        ->excludes(sequence)
        ->excludes(batch)
        ->excludes(work);
    command.add_option("--sweep-limit", arguments->sweep_limit, "of --sweep: plans that are made at most")
        ->check(CLI::Range(1, 1'000'000));
    const auto share = CLI::Range(0.01, 1.0);
    command
        .add_option("--efficiency", arguments->assumptions.products,
                    "of the estimate of time: share of the device's peak operations that is reached")
        ->check(share);
    command.add_option("--link-efficiency", arguments->assumptions.links, "likewise of links and network")
        ->check(share);
    command.add_option("--unit", arguments->unit, "of --max-sequence: lengths are multiples of it")
        ->check(CLI::Range(int64_t{1}, kMost));
    command.add_option("--json", arguments->json, "file for the whole plan");
    command.add_option("--picture", arguments->picture, "SVG for what lives as the step goes on");
    command.footer(
        "The real step runs on tensors without memory, once for every role that a rank has, and its bytes "
        "are\n"
        "counted; torch's allocator, CUDA's context and NCCL are added from a table. Exit code 3: it does "
        "not "
        "fit.\n"
        "Examples:\n"
        "  axial plan recipes/genome_250m.yaml --world 8 --device a100-40gb --set parallel.zero=3\n"
        "  axial plan recipes/genome_250m.yaml --world 8 --set parallel.ring=8 --max-sequence --unit 4096\n"
        "  axial plan recipes/genome_25m.yaml --device h200 --max-batch --json plan.json\n"
        "  axial plan recipes/long/genome_25b.yaml --world 64 --sweep");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
