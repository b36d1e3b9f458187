// SPDX-License-Identifier: Apache-2.0
// `axial embed`: one vector per record, as .npy with the ids beside it.
#include <fmt/format.h>

#include "axial/cli/common/model_arguments.h"
#include "axial/cli/common/registry.h"
#include "axial/core/check/check.h"
#include "axial/core/file/atomic_writer.h"
#include "axial/core/progress/progress.h"
#include "axial/train/infer/embed.h"
#include "axial/train/infer/npy.h"

namespace axial::cli {
namespace {

struct Arguments {
  ModelArguments model;
  std::vector<std::string> data;
  train::WindowOptions windows;
  std::filesystem::path out;
};

std::filesystem::path ids_path(const std::filesystem::path& out) {
  std::filesystem::path path = out;
  return path.replace_extension(".ids.txt");
}

void check_out(const Arguments& arguments) {
  AXIAL_CHECK(!output_target(output_path(arguments.out)).in_place, "embed",
              "--out; expected the name of a file (a second one is written beside it), got '{}'",
              arguments.out.string());
  output_target(ids_path(arguments.out));
  check_is_no_input(arguments.out, arguments.data);
  check_is_no_input(ids_path(arguments.out), arguments.data);
  check_is_no_model_file(arguments.out, arguments.model.path);
}

int run_on(const MeshModel& mesh, const Arguments& arguments) {
  check_out(arguments);
  train::LoadedModel loaded = arguments.model.load(mesh);
  const data::GenomeRecords records = open_records(arguments.data, loaded);
  Progress progress({.label = "embed", .unit = "tokens", .total = records.report().tokens});
  train::WindowOptions windows = arguments.windows;
  windows.on_tokens = [&](int64_t count) { progress.advance(count); };
  if (mesh.is_first()) make_parent(arguments.out);
  AtomicWriter ids(mesh.output(ids_path(arguments.out)));
  std::unique_ptr<train::NpyWriter> rows;  // made at the first record, which tells the width
  const auto on_embedding = [&](const std::string& id, std::span<const float> embedding) {
    if (!mesh.is_first()) return;
    if (!rows)
      rows = std::make_unique<train::NpyWriter>(arguments.out, static_cast<int64_t>(embedding.size()));
    rows->write_row(embedding);
    ids.write(id + "\n");
  };
  train::Embedder embedder(loaded.model, windows, {data::SpecialIds::kBegin, data::SpecialIds::kEnd},
                           on_embedding, &mesh.ranks);
  for (int64_t i = 0; i < records.size(); ++i) {
    data::GenomeRecord record = records.record(i);
    embedder.add(std::move(record.name), {record.tokens.begin(), record.tokens.end()});
  }
  embedder.finish();
  if (!mesh.is_first()) return 0;
  rows->finish();
  ids.commit();
  progress.finish();
  fmt::print("{} embeddings -> {}, ids -> {}\n", rows->rows(), arguments.out.string(),
             ids_path(arguments.out).string());
  return 0;
}

int run(const Arguments& arguments) {
  return arguments.model.run_on_mesh([&](const MeshModel& mesh) { return run_on(mesh, arguments); });
}

}  // namespace

void register_embed(CommandRegistry& registry) {
  registry.add("embed", "Mean-pooled hidden state per record", [](CLI::App& command) {
    auto arguments = std::make_shared<Arguments>();
    arguments->model.declare(command);
    arguments->model.declare_tokenizer(command);
    arguments->model.declare_ranks(command);
    declare_data(command, arguments->data);
    declare_out(command, arguments->out,
                ".npy file, float32 [records, hidden]; ids go to <name>.ids.txt beside it");
    declare_windows(command, arguments->windows);
    command.footer(
        "Example:\n  axial embed runs/yeast --data genes.fasta --out genes.npy\n"
        "The mean is over the tokens of the sequence: the begin and end tokens (CLS, SEP) are run, not "
        "averaged.");
    return [arguments] { return run(*arguments); };
  });
}

}  // namespace axial::cli
