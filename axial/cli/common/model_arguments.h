// SPDX-License-Identifier: Apache-2.0
// The arguments that every command taking a model shares: its folder, precision, which checkpoint.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "axial/data/genome/genome.h"
#include "axial/train/load/load.h"

namespace axial::cli {

/// What the user said about the model.
struct ModelArguments {
  std::filesystem::path path;
  std::string precision = "fp32";
  std::string checkpoint = "best";
  int64_t threads = 0;

  /// Declare CKPT, --precision, --checkpoint and --threads.
  void declare(CLI::App& command);
  /// Set the number of threads and load; throws what load_model throws.
  train::LoadedModel load() const;
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

/// Throw ValueError unless a file can be written at `path`: its folder exists or can be made.
void make_parent(const std::filesystem::path& path);

}  // namespace axial::cli
