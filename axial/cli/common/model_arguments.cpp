// SPDX-License-Identifier: Apache-2.0
// Shared arguments of eval, score, generate, embed, export and info.
#include "axial/cli/common/model_arguments.h"

#include <ATen/Parallel.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/log/log.h"
#include "axial/core/recipe/recipe.h"
#include "axial/data/input/input.h"
#include "axial/train/run_folder/run_folder.h"

namespace axial::cli {
namespace {

// A foreign folder says nothing about sequences, so the user may; one that does is not overruled.
void adopt_tokenizer(train::LoadedModel& loaded, const std::string& kind) {
  if (!loaded.tokenizer.is_null()) {
    const std::string own = loaded.tokenizer.value("kind", "");
    AXIAL_CHECK(own == kind, "load", "{} carries a tokenizer; expected no --tokenizer or '{}', got '{}'",
                loaded.source, own, kind);
    return;
  }
  const auto made = data::make_tokenizer({.kind = kind});
  const auto vocabulary = loaded.model.config.value("vocab_size", int64_t{0});
  AXIAL_CHECK(made->vocab_size() <= vocabulary, "load",
              "--tokenizer {} has {} ids; expected at most the {} of the model", kind, made->vocab_size(),
              vocabulary);
  loaded.tokenizer = made->to_json();
}

struct MeshRecipe {
  parallel::MeshOptions parallel;

  template <class V>
  void fields(V& v) {
    v("parallel", parallel, "how ranks split the model");
  }
};

}  // namespace

void ModelArguments::declare(CLI::App& command) {
  command.add_option("CKPT", path, "run folder, checkpoint folder or Hugging Face folder")->required();
  command.add_option("--precision", precision, "of the computation")
      ->check(CLI::IsMember({"fp64", "fp32", "bf16", "fp16"}))
      ->capture_default_str();
  command.add_option("--checkpoint", checkpoint, "of a run folder: best (by validation) or last")
      ->check(CLI::IsMember({"best", "last"}))
      ->capture_default_str();
  command.add_option("--threads", threads, "0: all cores")->check(CLI::Range(0, 4096))->capture_default_str();
}

void ModelArguments::declare_tokenizer(CLI::App& command) {
  command
      .add_option("--tokenizer", tokenizer,
                  "codon, nucleotide or byte: of a Hugging Face folder without axial_tokenizer.json")
      ->check(CLI::IsMember({"codon", "nucleotide", "byte"}));
}

void ModelArguments::declare_ranks(CLI::App& command) {
  ranks.declare(command);
  command
      .add_option("--set", overrides,
                  "how ranks split the model, as in a recipe: parallel.tensor=2; repeatable")
      ->take_all()
      ->allow_extra_args(false);
}

std::filesystem::path MeshModel::output(const std::filesystem::path& out) const {
  return is_first() ? output_path(out) : "/dev/null";
}

int ModelArguments::run_on_mesh(const std::function<int(const MeshModel&)>& work) const {
  recipe::Node root = recipe::Node::section();
  for (const std::string& assignment : overrides) recipe::apply_override(root, assignment);
  const parallel::MeshOptions options = recipe::parse<MeshRecipe>(root).parallel;
  return run_on_ranks(ranks, [&](parallel::World& world) {
    const auto communicator =
        world.make_communicator(parallel::make_mesh(options, world.size(), world.rank()));
    return work({world, *communicator, options});
  });
}

at::ScalarType ModelArguments::dtype() const {
  if (precision == "fp64") return at::kDouble;
  if (precision == "fp32") return at::kFloat;
  return precision == "bf16" ? at::kBFloat16 : at::kHalf;
}

train::LoadOptions ModelArguments::options() const {
  train::LoadOptions options;
  options.dtype = dtype();
  options.which = checkpoint == "best" ? train::WhichCheckpoint::kBest : train::WhichCheckpoint::kLast;
  return options;
}

train::LoadedModel ModelArguments::load() const { return load_with(options()); }

train::LoadedModel ModelArguments::load(const MeshModel& mesh) const {
  train::LoadOptions split = options();
  split.ranks = &mesh.ranks;
  split.parallel = mesh.options;
  return load_with(split);
}

train::LoadedModel ModelArguments::describe() const {
  return train::describe_model(path, models::all_models(), options());
}

train::LoadedModel ModelArguments::load_with(const train::LoadOptions& options) const {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  train::LoadedModel loaded = train::load_model(path, models::all_models(), options);
  if (!tokenizer.empty()) adopt_tokenizer(loaded, tokenizer);
  return loaded;
}

std::unique_ptr<data::Tokenizer> tokenizer_of(const train::LoadedModel& loaded) {
  AXIAL_CHECK(
      !loaded.tokenizer.is_null(), "load",
      "{} carries no tokenizer; expected axial_tokenizer.json in the folder (axial export writes it), or "
      "--tokenizer codon, nucleotide or byte",
      loaded.source);
  return data::tokenizer_from_json(loaded.tokenizer);
}

data::GenomeRecords open_records(const std::vector<std::string>& files, const train::LoadedModel& loaded) {
  data::GenomeRecords records = data::open_genome_records(files, tokenizer_of(loaded)->options());
  for (const std::string& warning : records.report().warnings) log()->warn("{}", warning);
  return records;
}

void print_report(const data::GenomeReport& report) {
  for (const std::string& line : report.lines()) fmt::print("{}\n", line);
  std::fflush(stdout);
  for (const std::string& warning : report.warnings) log()->warn("{}", warning);
}

void declare_data(CLI::App& command, std::vector<std::string>& files) {
  command.add_option("--data", files, "FASTA files (plain, gzip, zstd), folders or patterns")->required();
}

void declare_out(CLI::App& command, std::filesystem::path& out, const std::string& what) {
  command.add_option("--out", out, what)->required();
}

void declare_windows(CLI::App& command, train::WindowOptions& windows) {
  command.add_option("--window", windows.window, "tokens per window of long records; 0: the model's longest");
  command.add_option("--overlap", windows.overlap, "tokens that windows share; -1: half a window");
  command.add_option("--batch-tokens", windows.batch_tokens, "tokens run together")->capture_default_str();
  declare_tiles(command, windows.tile_tokens);
}

void declare_tiles(CLI::App& command, int64_t& tile_tokens) {
  command
      .add_option("--tile-tokens", tile_tokens,
                  "feed-forward, norms and logits run over so many positions of a row at a time; 0: over all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
}

std::filesystem::path output_path(const std::filesystem::path& out) {
  return out == "-" ? std::filesystem::path("/dev/stdout") : out;
}

void print_summary(const std::filesystem::path& out, const std::string& line) {
  const bool taken = output_target(output_path(out)).descriptor == 1;
  fmt::print(taken ? stderr : stdout, "{}\n", line);
}

void check_is_no_input(const std::filesystem::path& out, const std::vector<std::string>& data) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(out, none)) return;
  for (const std::filesystem::path& file : data::expand_inputs(data).files) {
    AXIAL_CHECK(!std::filesystem::equivalent(out, file), "out",
                "'{}' is one of the data files; expected another name for the results", out.string());
  }
}

void check_is_no_model_file(const std::filesystem::path& out, const std::filesystem::path& model) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(out, none)) return;
  const std::string folder = std::filesystem::canonical(model, none).string() + "/";
  const std::filesystem::path file = std::filesystem::canonical(out, none);
  const bool inside = file.string().starts_with(folder);
  const auto& name = file.filename().string();
  constexpr std::array<std::string_view, 9> kParts{
      "metrics.jsonl",        "loss.svg",    "index.json",
      "checkpoints.json",     "config.json", "model.safetensors.index.json",
      "axial_tokenizer.json", "lock",        "generation_config.json"};
  const bool part = name == train::kRecipeFile ||
                    std::find(kParts.begin(), kParts.end(), name) != kParts.end() ||
                    file.extension() == ".safetensors" || name.starts_with("events.out.tfevents");
  AXIAL_CHECK(!inside || !part, "out", "'{}' belongs to the model; expected another name for the results",
              out.string());
}

CLI::Validator seed_range() {
  const auto check = [](const std::string& text) -> std::string {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = error == std::errc() && end == text.data() + text.size();
    return whole && value >= 0 ? "" : fmt::format("expected 0 to 9223372036854775807, got '{}'", text);
  };
  return {check, "SEED"};
}

void make_parent(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.parent_path();
  if (parent.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (error) fail<IoError>("out", "cannot create folder '{}': {}", parent.string(), error.message());
}

}  // namespace axial::cli
