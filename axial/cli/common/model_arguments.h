// SPDX-License-Identifier: Apache-2.0
// The arguments that every command taking a model shares: its folder, precision, which checkpoint.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "axial/cli/common/ranks.h"
#include "axial/data/genome/genome.h"
#include "axial/parallel/mesh/mesh_options.h"
#include "axial/train/infer/windows.h"
#include "axial/train/load/load.h"

namespace axial::cli {

/// The ranks that a model is split over.
struct MeshModel {
  parallel::World& world;
  parallel::Communicator& ranks;
  parallel::MeshOptions options;

  bool is_first() const { return world.rank() == 0; }
  /// Where this rank writes what all ranks have: the file of --out, or nowhere.
  std::filesystem::path output(const std::filesystem::path& out) const;
};

/// What the user said about the model.
struct ModelArguments {
  std::filesystem::path path;
  std::string precision = "fp32";
  std::string checkpoint = "best";
  int64_t threads = 0;
  std::string tokenizer;  ///< kind for a folder that carries none; "": not said
  RanksArguments ranks;
  std::vector<std::string> overrides;  ///< "parallel.tensor=2"

  /// Declare CKPT, --precision, --checkpoint and --threads.
  void declare(CLI::App& command);
  /// Declare --tokenizer, for commands that read or write sequences.
  void declare_tokenizer(CLI::App& command);
  /// Declare --ranks, --timeout and --set, for commands that run the model.
  void declare_ranks(CLI::App& command);
  /// Set the number of threads and load; throws what load_model throws, and ValueError when --tokenizer
  /// contradicts the folder's or has more ids than the model.
  train::LoadedModel load() const;
  /// The same without reading the weights (train::describe_model).
  train::LoadedModel describe() const;
  /// What --precision says.
  at::ScalarType dtype() const;
  /// Run `work` on every rank that was asked for, with the communicator of the mesh that --set names, and
  /// return what the first rank's returned. Ranks after the first are silent.
  int run_on_mesh(const std::function<int(const MeshModel&)>& work) const;
  /// As load(), split over the ranks.
  train::LoadedModel load(const MeshModel& mesh) const;

 private:
  train::LoadOptions options() const;
  train::LoadedModel load_with(const train::LoadOptions& options) const;
};

/// The tokenizer of a loaded model; throws ValueError when its folder carries none.
std::unique_ptr<data::Tokenizer> tokenizer_of(const train::LoadedModel& loaded);

/// The records that --data names, encoded as the model was trained; prints what was met.
data::GenomeRecords open_records(const std::vector<std::string>& files, const train::LoadedModel& loaded);

/// Print a data report: what was read on stdout, warnings on stderr.
void print_report(const data::GenomeReport& report);

/// Declare --data, required.
void declare_data(CLI::App& command, std::vector<std::string>& files);

/// Declare --out, required.
void declare_out(CLI::App& command, std::filesystem::path& out, const std::string& what);

/// Declare --tile-tokens: what long rows hold at a time.
void declare_tiles(CLI::App& command, int64_t& tile_tokens);

/// Declare --window, --overlap, --batch-tokens and --tile-tokens: how long records run.
void declare_windows(CLI::App& command, train::WindowOptions& windows);

/// The file that --out names: "-" is standard output.
std::filesystem::path output_path(const std::filesystem::path& out);

/// Print the closing line of a command: on stdout, or on stderr where the results themselves go to stdout.
void print_summary(const std::filesystem::path& out, const std::string& line);

/// Throw ValueError when `out` is one of the files that --data names: results would replace their input.
void check_is_no_input(const std::filesystem::path& out, const std::vector<std::string>& data);

/// Throw ValueError unless a file can be written at `path`: its folder exists or can be made.
/// Throws ValueError when results would replace what a run or a model folder consists of.
void check_is_no_model_file(const std::filesystem::path& out, const std::filesystem::path& model);

/// A seed: 0 to 2^63 - 1.
CLI::Validator seed_range();

void make_parent(const std::filesystem::path& path);

}  // namespace axial::cli
