// SPDX-License-Identifier: Apache-2.0
// `axial generate`: new sequences from a model, as FASTA.
#include "axial/train/infer/generate.h"

#include <fmt/format.h>

#include <algorithm>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/check/check.h"
#include "axial/core/file/atomic_writer.h"
#include "axial/core/progress/progress.h"
#include "axial/train/infer/windows.h"

namespace axial::cli {
namespace {

struct Arguments {
  ModelArguments model;
  train::GenerateOptions options;
  std::optional<int64_t> max_tokens;  ///< absent: the default of options, or fewer where no more fit
  std::string prompt;
  bool through_stops = false;
  std::filesystem::path out;
};

// `vocabulary` is the model's: it may be longer than the tokenizer's.
train::GenerateIds ids_of(const Arguments& arguments, const data::Tokenizer& tokenizer, int64_t vocabulary) {
  train::GenerateIds ids;
  ids.prompt = tokenizer.encode_prompt(arguments.prompt);
  AXIAL_CHECK(
      !ids.prompt.empty(), "generate",
      "nothing to start from: this tokenizer has no begin token; expected --prompt with at least one token");
  for (int64_t id = 0; id < vocabulary; ++id) {
    if (!tokenizer.may_generate(id)) ids.special.push_back(static_cast<int32_t>(id));
  }
  ids.end = {data::SpecialIds::kEnd};
  if (!arguments.through_stops) ids.stop = tokenizer.stop_ids();
  return ids;
}

const char* reason(train::Generated::Stop stop) {
  if (stop == train::Generated::Stop::kEnd) return "end";
  return stop == train::Generated::Stop::kStopToken ? "stop_codon" : "length";
}

std::string fasta_of(const train::Generated& sequence, const std::string& text) {
  std::string record =
      fmt::format(">generated_{} tokens={} log_likelihood={:.4f} stopped_by={}\n", sequence.index,
                  sequence.ids.size(), sequence.log_likelihood, reason(sequence.stop));
  constexpr size_t kWidth = 80;
  for (size_t at = 0; at < text.size(); at += kWidth) record += text.substr(at, kWidth) + "\n";
  return record;
}

// What a model of 128 positions can do should not need an option.
int64_t default_max_tokens(const models::Model& model, size_t prompt, int64_t otherwise) {
  const auto given = static_cast<int64_t>(prompt);
  return std::clamp<int64_t>(train::max_positions_of(model, given + otherwise) - given, 1, otherwise);
}

int run_on(const MeshModel& mesh, const Arguments& arguments) {
  train::GenerateOptions options = arguments.options;
  if (arguments.max_tokens) options.max_tokens = *arguments.max_tokens;
  options.validate();
  check_is_no_model_file(arguments.out, arguments.model.path);
  train::LoadedModel loaded = arguments.model.load(mesh);
  const auto tokenizer = tokenizer_of(loaded);
  const train::GenerateIds ids =
      ids_of(arguments, *tokenizer, loaded.model.config.value("vocab_size", tokenizer->vocab_size()));
  if (!arguments.max_tokens)
    options.max_tokens = default_max_tokens(loaded.model, ids.prompt.size(), options.max_tokens);
  if (mesh.is_first()) make_parent(arguments.out);
  AtomicWriter out(mesh.output(arguments.out));
  Progress progress({.label = "generate", .unit = "sequences", .total = options.count});
  const auto on_sequence = [&](const train::Generated& sequence) {
    std::vector<int32_t> all = ids.prompt;
    all.insert(all.end(), sequence.ids.begin(), sequence.ids.end());
    out.write(fasta_of(sequence, tokenizer->decode(all)));
    progress.advance(1);
  };
  train::generate(loaded.model, ids, options, on_sequence, &mesh.ranks);
  out.commit();
  progress.finish();
  print_summary(arguments.out, fmt::format("{} sequences -> {}", options.count, arguments.out.string()));
  return 0;
}

int run(const Arguments& arguments) {
  return arguments.model.run_on_mesh([&](const MeshModel& mesh) { return run_on(mesh, arguments); });
}

void declare_sampling(CLI::App& command, Arguments& a) {
  command.add_option("--count", a.options.count, "sequences")->capture_default_str();
  command.add_option(
      "--max-tokens", a.max_tokens,
      fmt::format("new tokens per sequence at most; default: {}, or what the model has room for",
                  a.options.max_tokens));
  command.add_option("--min-tokens", a.options.min_tokens, "new tokens before a sequence may stop")
      ->capture_default_str();
  command.add_option("--temperature", a.options.sampling.temperature, "0: always the most likely token")
      ->capture_default_str();
  command.add_option("--top-k", a.options.sampling.top_k, "keep this many tokens; 0: all")
      ->capture_default_str();
  command
      .add_option("--top-p", a.options.sampling.top_p, "keep the fewest tokens that reach this probability")
      ->capture_default_str();
  command.add_option("--seed", a.options.seed, "of all draws")->check(seed_range())->capture_default_str();
  command.add_option("--batch", a.options.batch, "sequences decoded together")->capture_default_str();
}

}  // namespace

void register_generate(CommandRegistry& registry) {
  registry.add("generate", "New sequences from a model", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    arguments->model.declare(command);
    arguments->model.declare_tokenizer(command);
    arguments->model.declare_ranks(command);
    declare_out(command, arguments->out, "FASTA file; -: stdout");
    command.add_option("--prompt", arguments->prompt,
                       "bases that every sequence starts with, for example ATG");
    command.add_flag("--through-stops", arguments->through_stops, "do not stop at a stop codon");
    declare_sampling(command, *arguments);
    command.footer(
        "Examples:\n"
        "  axial generate runs/yeast --count 100 --prompt ATG --out genes.fasta\n"
        "  axial generate runs/yeast --temperature 0.8 --top-p 0.95 --seed 7 --out genes.fasta\n"
        "  axial generate runs/yeast --count 100 --out genes.fasta --ranks 2 --set parallel.pipe=2");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
