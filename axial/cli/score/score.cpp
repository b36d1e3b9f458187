// SPDX-License-Identifier: Apache-2.0
// `axial score`: log-likelihood of every record under a model, as TSV.
#include <fmt/format.h>

#include <cmath>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/file/atomic_writer.h"
#include "axial/core/progress/progress.h"
#include "axial/train/infer/score.h"

namespace axial::cli {
namespace {

struct Arguments {
  ModelArguments model;
  std::vector<std::string> data;
  train::WindowOptions windows;
  std::filesystem::path out;
};

int run_on(const MeshModel& mesh, const Arguments& arguments) {
  check_is_no_input(arguments.out, arguments.data);
  check_is_no_model_file(arguments.out, arguments.model.path);
  train::LoadedModel loaded = arguments.model.load(mesh);
  const data::GenomeRecords records = open_records(arguments.data, loaded);
  Progress progress({.label = "score", .unit = "tokens", .total = records.report().tokens});
  train::WindowOptions windows = arguments.windows;
  windows.on_tokens = [&](int64_t count) { progress.advance(count); };
  if (mesh.is_first()) make_parent(arguments.out);
  AtomicWriter out(mesh.output(arguments.out));
  out.write("id\ttokens\tlog_likelihood\n");
  double sum = 0, tokens = 0;
  const auto on_score = [&](const train::Score& score) {
    out.write(fmt::format("{}\t{}\t{}\n", score.id, score.tokens, score.log_likelihood));
    sum += score.log_likelihood;
    tokens += static_cast<double>(score.tokens);
  };
  train::Scorer scorer(loaded.model, windows, on_score, &mesh.ranks);
  for (int64_t i = 0; i < records.size(); ++i) {
    data::GenomeRecord record = records.record(i);
    scorer.add(std::move(record.name), {record.tokens.begin(), record.tokens.end()});
  }
  scorer.finish();
  out.commit();
  progress.finish();
  print_summary(arguments.out,
                fmt::format("{} records, {:.0f} tokens, perplexity {:.4f} -> {}", records.size(), tokens,
                            std::exp(-sum / std::max(tokens, 1.0)), arguments.out.string()));
  return 0;
}

int run(const Arguments& arguments) {
  return arguments.model.run_on_mesh([&](const MeshModel& mesh) { return run_on(mesh, arguments); });
}

}  // namespace

void register_score(CommandRegistry& registry) {
  registry.add("score", "Log-likelihood per record", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    arguments->model.declare(command);
    arguments->model.declare_tokenizer(command);
    arguments->model.declare_ranks(command);
    declare_data(command, arguments->data);
    declare_out(command, arguments->out,
                "TSV with columns id, tokens, log_likelihood (natural logarithm); -: stdout");
    declare_windows(command, arguments->windows);
    command.footer(
        "Examples:\n  axial score runs/yeast --data variants.fasta --out scores.tsv\n"
        "  axial score runs/yeast --data variants.fasta --out scores.tsv --ranks 4 --set parallel.tensor=2");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
