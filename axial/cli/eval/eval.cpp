// SPDX-License-Identifier: Apache-2.0
// `axial eval`: validation perplexity of a model beside baselines that only count, fitted on the training
// split, and beside the truth where genes were simulated.
#include <fmt/format.h>

#include <cmath>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/check/check.h"
#include "axial/core/file/atomic_writer.h"
#include "axial/core/file/file.h"
#include "axial/core/log/log.h"
#include "axial/core/progress/progress.h"
#include "axial/data/ngram/baselines.h"
#include "axial/data/simulate/simulate.h"
#include "axial/train/evaluate/evaluate.h"
#include "axial/train/recipe/run_recipe.h"
#include "axial/train/run_folder/run_folder.h"
#include "axial/train/trainer/report.h"

namespace axial::cli {
namespace {

namespace fs = std::filesystem;
using data::BaselineRow;

struct Arguments {
  ModelArguments model;
  std::vector<std::string> data;
  std::vector<std::string> validation_data;
  std::optional<double> validation_fraction;
  int64_t seed = 0;
  int64_t batch = 8;
  int64_t sequence_length = 0;
  int64_t tile_tokens = train::WindowOptions().tile_tokens;
  int64_t max_order = 6;
  fs::path truth;
  std::optional<fs::path> json;
};

// The run folder that a path lies in: itself, or the owner of a checkpoint. Empty when there is none.
fs::path run_folder_of(const fs::path& path) {
  const fs::path folder = fs::weakly_canonical(path);  // without the "/" that a shell completes
  for (const fs::path& candidate : {folder, folder.parent_path().parent_path()}) {
    if (fs::exists(candidate / train::kRecipeFile)) return candidate;
  }
  return {};
}

/// Which records are judged, and the seed of their split.
struct Question {
  data::GenomeDataOptions data;
  uint64_t seed = 0;
  bool of_run = false;         ///< a run's recipe is behind it
  double trained_without = 0;  ///< share of the records that the run held out; 0: unknown
};

// A run's own recipe says how its data was split; other folders take the defaults and the command line.
Question question_of(const Arguments& arguments, const fs::path& run_folder,
                     const train::LoadedModel& loaded) {
  Question question;
  question.seed = static_cast<uint64_t>(arguments.seed);
  if (!run_folder.empty()) {
    const fs::path path = run_folder / train::kRecipeFile;
    const auto recipe = recipe::parse<train::RunRecipe>(recipe::load_text(read_file(path), path.string()));
    question.data = recipe.data;
    question.seed = static_cast<uint64_t>(recipe.train.seed);
    question.of_run = true;
    question.trained_without =
        recipe.data.validation_files.empty() ? recipe.data.split.validation_fraction : 0;
  } else {
    question.data.tokenizer = tokenizer_of(loaded)->options();
    question.data.sequence_length = loaded.model.config.value("max_positions", question.data.sequence_length);
    AXIAL_CHECK(!arguments.data.empty(), "eval", "{} has no recipe; expected --data", loaded.source);
  }
  if (!arguments.data.empty()) {
    question.data.files = arguments.data;
    question.data.mixture.clear();
  }
  if (!arguments.validation_data.empty()) question.data.validation_files = arguments.validation_data;
  if (arguments.sequence_length > 0) question.data.sequence_length = arguments.sequence_length;
  if (arguments.validation_fraction) question.data.split.validation_fraction = *arguments.validation_fraction;
  return question;
}

// The very split that the model was trained on.
bool is_own_data(const train::LoadedModel& loaded, const data::GenomeReport& report) {
  return !loaded.data.is_null() && loaded.data.value("content", "") == report.content;
}

// Records that a run trained on say little about it: refuse to judge them where they can be told, warn where
// they cannot. A share of the run's or less, drawn with the run's seed, is always among what it held out.
void check_held_out(const Arguments& arguments, const Question& question, const train::LoadedModel& loaded,
                    const data::GenomeReport& report) {
  if (loaded.data.is_null()) {
    log()->warn("{} does not say what it was trained on: the judged records may be among it", loaded.source);
    return;
  }
  if (is_own_data(loaded, report)) return;
  const bool same_records = loaded.data.value("records", int64_t{-1}) == report.records &&
                            loaded.data.value("tokens", int64_t{-1}) == report.tokens;
  const bool given = !question.data.validation_files.empty();
  const double fraction = question.data.split.validation_fraction;
  const bool larger = !given && fraction > question.trained_without;
  AXIAL_CHECK(
      !(question.of_run && same_records && larger), "eval",
      "{} was trained on records that would be judged; expected validation_fraction at most {}, as the "
      "run's recipe has it, got {}",
      loaded.source, question.trained_without, fraction);
  AXIAL_CHECK(question.of_run || given || !same_records, "eval",
              "{} was trained on the same records, split otherwise; expected the run folder, which knows its "
              "split, or the run's own --seed and --validation-fraction, got {} and {}",
              loaded.source, question.seed, fraction);
  if (question.of_run && given && arguments.validation_data.empty()) {
    log()->warn(
        "judged: validation_files of the run's recipe; --data only fits the baselines "
        "(--validation-data judges other records)");
  } else if (!question.of_run || given || larger || question.data.split.keep_near_duplicates_together) {
    log()->warn(
        "the judged records are others than those that the run held out: whether it was trained on "
        "some of them is not checked");
  }
}

BaselineRow model_row(const MeshModel& mesh, train::LoadedModel& loaded, const data::GenomeData& genomes,
                      const parallel::SequenceLayout& rows, const Arguments& arguments) {
  parallel::StepRunner runner = loaded.model.runner_with("loss", &mesh.ranks);
  runner.set_sequence(rows);
  runner.set_inference_tiles(arguments.tile_tokens);
  Progress progress({.label = "eval", .unit = "rows", .total = genomes.validation->num_rows()});
  train::EvaluateOptions options;
  options.batch = arguments.batch;
  options.on_rows = [&](int64_t rows) { progress.update(rows); };
  const train::Evaluation evaluation = train::evaluate(runner, *genomes.validation, options);
  progress.finish();
  return data::make_baseline_row("model", evaluation.loss * evaluation.weight,
                                 static_cast<int64_t>(evaluation.weight));
}

data::BaselineTable baseline_rows(const data::GenomeData& genomes, int64_t max_order) {
  Progress counting({.label = "count n-grams", .unit = "tokens", .total = genomes.report.tokens});
  const auto model =
      data::NgramModel::fit(genomes.train_records, genomes.tokenizer->vocab_size(), {.order = max_order},
                            [&](int64_t tokens) { counting.update(tokens); });
  counting.finish();
  Progress judging(
      {.label = "judge n-grams", .unit = "tokens", .total = genomes.report.split.validation_tokens});
  data::BaselineOptions options;
  options.max_order = max_order;
  data::BaselineTable table = data::compute_baselines(model, genomes.validation_records, options,
                                                      [&](int64_t tokens) { judging.update(tokens); });
  judging.finish();
  return table;
}

BaselineRow truth_row(const data::GenomeData& genomes, const fs::path& sidecar) {
  const data::CodonProcess process = data::load_process(sidecar);
  double nats = 0;
  int64_t tokens = 0;
  genomes.validation_records([&](std::span<const int32_t> ids) {
    const data::TrueLikelihood truth = process.true_log_likelihood(genomes.tokenizer->decode(ids));
    nats += truth.nats;
    tokens += truth.tokens;
  });
  return data::make_baseline_row("truth", nats, tokens);
}

nlohmann::json to_json(const BaselineRow& row) {
  return {{"name", row.name},
          {"perplexity", row.perplexity},
          {"nats", row.nats},
          {"bits", row.bits},
          {"tokens", row.tokens}};
}

// Baselines of other records would say nothing about the run's curve.
void draw_curve(const fs::path& run_folder, const data::BaselineTable& table, bool of_its_data) {
  if (run_folder.empty() || !of_its_data) return;
  std::vector<train::CurveBaseline> lines;
  for (const BaselineRow& row : table.rows) {
    if (row.name == "unigram" || row.name == "truth") lines.push_back({row.name, row.nats});
  }
  lines.push_back({"best n-gram: " + table.best_ngram().name, table.best_ngram().nats});
  try {
    train::write_loss_curve(run_folder, run_folder.filename().string(), lines);
    fmt::print("curve: {}\n", (run_folder / "loss.svg").string());
  } catch (const IoError& error) {
    log()->warn("the curve keeps its old baselines: {}", error.what());
  }
}

// Every rank reads the rows; what the first one caches, the others find.
data::GenomeData open_rows(const MeshModel& mesh, const Question& question,
                           const parallel::SequenceLayout& rows) {
  data::GenomeData genomes;
  mesh.world.first_alone([&] { genomes = data::open_genome_data(question.data, question.seed, rows); });
  return genomes;
}

int run_on(const MeshModel& mesh, const Arguments& arguments) {
  std::optional<AtomicWriter> json;  // opened before the work, so that it is not done in vain
  if (arguments.json && mesh.is_first()) {
    if (!arguments.data.empty()) check_is_no_input(*arguments.json, arguments.data);
    if (!arguments.validation_data.empty()) check_is_no_input(*arguments.json, arguments.validation_data);
    check_is_no_model_file(*arguments.json, arguments.model.path);
    make_parent(*arguments.json);
    json.emplace(*arguments.json);
  }
  train::LoadedModel loaded = arguments.model.load(mesh);
  const fs::path run_folder = run_folder_of(arguments.model.path);
  const Question question = question_of(arguments, run_folder, loaded);
  train::check_input_length(loaded.model, question.data.sequence_length);
  const auto rows = parallel::SequenceLayout::over(mesh.ranks.mesh(), question.data.sequence_length);
  const data::GenomeData genomes = open_rows(mesh, question, rows);
  print_report(genomes.report);
  check_held_out(arguments, question, loaded, genomes.report);
  AXIAL_CHECK(genomes.validation != nullptr, "eval",
              "no record validates; expected split.validation_fraction above 0 or --validation-data");
  AXIAL_CHECK(genomes.tokenizer->to_json() == loaded.tokenizer, "eval",
              "the data is encoded otherwise than the model's; expected {}, got {}", loaded.tokenizer.dump(),
              genomes.tokenizer->to_json().dump());
  const BaselineRow judged = model_row(mesh, loaded, genomes, rows, arguments);
  if (!mesh.is_first()) return 0;
  data::BaselineTable table = baseline_rows(genomes, arguments.max_order);
  table.rows.push_back(judged);
  const int64_t tokens = table.rows.back().tokens;
  if (!arguments.truth.empty()) table.rows.push_back(truth_row(genomes, arguments.truth));
  for (const BaselineRow& row : table.rows) {
    AXIAL_CHECK(row.tokens == tokens, "eval", "row '{}' judges other tokens than the model: {} and {}",
                row.name, row.tokens, tokens);
  }
  fmt::print("\n{}: {} validation tokens\n{}\n", loaded.source, tokens, table.render());
  if (json) {
    nlohmann::json report{{"source", loaded.source}, {"tokens", tokens}, {"rows", nlohmann::json::array()}};
    for (const BaselineRow& row : table.rows) report["rows"].push_back(to_json(row));
    json->write(report.dump(1) + "\n");
    json->commit();
  }
  draw_curve(run_folder, table, is_own_data(loaded, genomes.report));
  return 0;
}

int run(const Arguments& arguments) {
  return arguments.model.run_on_mesh([&](const MeshModel& mesh) { return run_on(mesh, arguments); });
}

}  // namespace

void register_eval(CommandRegistry& registry) {
  registry.add("eval", "Perplexity beside baselines that only count", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    arguments->model.declare(command);
    arguments->model.declare_tokenizer(command);
    arguments->model.declare_ranks(command);
    command.add_option(
        "--data", arguments->data,
        "FASTA files; split as the run's recipe says, or beside its validation_files. Default: "
        "the run's own");
    command.add_option("--validation-data", arguments->validation_data,
                       "judge these records; --data only fits baselines");
    command.add_option("--validation-fraction", arguments->validation_fraction,
                       "share of the records that is judged");
    command.add_option("--seed", arguments->seed, "of the split, where there is no recipe")
        ->check(seed_range())
        ->capture_default_str();
    command.add_option("--batch", arguments->batch, "rows per pass")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    command
        .add_option("--sequence-length", arguments->sequence_length,
                    "tokens per row, as data.sequence_length; 0: as trained. Longer ones than trained need "
                    "position alibi or rotary")
        ->check(CLI::Range(0, 1 << 30));
    declare_tiles(command, arguments->tile_tokens);
    command.add_option("--max-order", arguments->max_order, "longest n-gram")
        ->check(CLI::Range(2, 10))
        ->capture_default_str();
    command.add_option("--truth", arguments->truth,
                       "JSON of `axial simulate genomes`: adds the true perplexity");
    command.add_option("--json", arguments->json, "also write the table here");
    command.footer(
        "Examples:\n"
        "  axial eval runs/yeast --data yeast.fasta --json eval.json\n"
        "  axial eval hf_folder --data yeast.fasta --validation-fraction 0.1\n"
        "  axial eval runs/yeast --data yeast.fasta --ranks 2 --set parallel.ring=2\n"
        "Perplexity is per predicted token: every codon and the end of each record.");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
