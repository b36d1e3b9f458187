// SPDX-License-Identifier: Apache-2.0
// The model and rows of the parity matrix, and its runs by the trainer. For tests over ranks;
// parity_plain.h has the same training by plain autograd.
#pragma once

#include <ATen/ATen.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "axial/data/packing/row_source.h"
#include "axial/models/common/parallelize.h"
#include "axial/parallel/sequence_attention/mask.h"
#include "axial/train/testing/compare_runs.h"

namespace axial::train::testing {

inline constexpr int64_t kParityLength = 29;  // odd: no number of ranks divides it

/// Rows of three records, or one, and, in some, padding; nothing is alike in two rows.
class ParityRows final : public data::RowSource {
 public:
  explicit ParityRows(parallel::SequenceLayout layout, bool one_record = false)
      : RowSource(std::move(layout)), one_record_(one_record) {}
  int64_t num_rows() const override { return 9; }
  int64_t num_tokens() const override { return 9 * kParityLength; }
  data::SourceRow row(int64_t index) const override {
    const int64_t r = index % num_rows();
    data::SourceRow out;
    const int64_t used = kParityLength - r % 4;
    out.row.record_starts = {0};
    if (!one_record_) out.row.record_starts = {0, 5 + r, 18 + r % 3};
    for (int64_t i = 0; i < used; ++i) out.row.tokens.push_back((r * 31 + i * i + i) % 69);
    out.row.next_token = r % 2 == 0 ? 7 : -1;
    out.names = {"row " + std::to_string(r)};
    return out;
  }

 private:
  bool one_record_ = false;
};

inline constexpr int64_t kMaskWindow = 6;
inline const std::vector<int64_t> kMaskPlaces{0, 3};
inline constexpr int64_t kMaxPositions = 32;

/// The mask of tied models as a NumPy file [32, 32] of bool.
inline void write_mask(const std::filesystem::path& file) {
  std::string header = "{'descr': '|b1', 'fortran_order': False, 'shape': (32, 32), }";
  header.resize(117, ' ');
  std::string out("\x93NUMPY\x01\x00\x76\x00", 10);
  out += header + "\n";
  const parallel::SeesFunction sees = parallel::sees_window_and_global(kMaskWindow, kMaskPlaces);
  for (int64_t q = 0; q < kMaxPositions; ++q) {
    for (int64_t k = 0; k < kMaxPositions; ++k) out += sees(q, k) ? '\1' : '\0';
  }
  std::ofstream(file, std::ios::binary) << out;
}

/// 4 layers, 6 query and 2 key/value heads, dropout.
struct ParityModel {
  /// "untied", or "tied": with a bias on logits, of a window with global places, and ALiBi; or "learned":
  /// untied with a table of positions, cut over ring and ulysses.
  std::string kind;
  std::filesystem::path mask_file;  ///< of write_mask: says the same in place of window and places
  bool one_record = false;          ///< in every row
  int64_t max_positions = kMaxPositions;

  models::Model build(const parallel::Mesh& mesh = parallel::Mesh::single(),
                      const parallel::MeshOptions& options = {}) const;
};

inline models::Model ParityModel::build(const parallel::Mesh& mesh,
                                        const parallel::MeshOptions& options) const {
  nlohmann::json config = {
      {"vocab_size", 69},  {"hidden_size", 24}, {"num_layers", 4},         {"num_heads", 6},
      {"num_kv_heads", 2}, {"head_dim", 4},     {"ffn_size", 22},          {"max_positions", max_positions},
      {"init_std", 0.3},   {"head_bias", true}, {"residual_dropout", 0.2}, {"embedding_dropout", 0.1}};
  if (kind == "tied") {
    config.update({{"tied_embeddings", true}, {"position", "alibi"}, {"activation", "swiglu"}});
    config["attention_mask"] = {{"window", kMaskWindow}, {"global", kMaskPlaces}};
    if (!mask_file.empty()) config["attention_mask"] = {{"file", mask_file.string()}};
  }
  if (kind == "learned") config["position"] = "learned";
  const models::ModelRegistry registry = models::all_models();
  models::Model model = registry.at("decoder").build(config);
  models::parallelize(model, registry, mesh, options, kParityLength);
  return model;
}

/// 5 rows a step in micro-batches of 2, clipped at every step.
inline TrainOptions parity_options(Precision precision, int64_t recompute, int64_t steps) {
  TrainOptions options;
  options.steps = steps;
  options.batch = 5;
  options.micro_batch = 2;
  options.precision = precision;
  options.seed = 3;
  options.threads = 1;
  options.recompute_group = recompute;
  options.validate_every = 0;
  options.checkpoint_every = 0;
  options.optimizer.learning_rate = 1e-2;
  options.schedule.kind = "constant";
  options.schedule.warmup_steps = 0;
  options.clip_norm = 0.5;  // below the norm: every step is clipped
  // Key biases have no gradient but rounding: an eps of 1e-8 would make steps of 1e-9 out of 1e-17.
  options.optimizer.eps = 1e-6;
  return options;
}

/// A run of the trainer, going on with what the folder holds, over `ranks` (null: alone); a signal ends it
/// after `stop_after`.
inline Run train_parity(const std::filesystem::path& folder, const ParityModel& model,
                        const TrainOptions& options, const parallel::MeshOptions& mesh_options,
                        parallel::Communicator* ranks, int64_t stop_after = -1) {
  const parallel::Mesh mesh = ranks == nullptr ? parallel::Mesh::single() : ranks->mesh();
  const auto sequence = parallel::SequenceLayout::over(mesh, kParityLength);
  const ParityRows rows(sequence, model.one_record);
  const RunFolder run_folder = mesh.rank() == 0 ? RunFolder(folder) : RunFolder::of_first_rank(folder);
  Run run;
  TrainerInputs inputs;
  inputs.model = model.build(mesh, mesh_options);
  inputs.training = &rows;
  const models::ModelRegistry registry = models::all_models();
  inputs.registry = &registry;
  inputs.show_progress = false;
  inputs.ranks = {ranks, mesh_options, sequence};
  inputs.on_step = [&](int64_t step, const StepOutcome& outcome) {
    run.outcomes.push_back(outcome);
    if (mesh.rank() == 0 && step == stop_after) raise(SIGTERM);
  };
  Trainer trainer(std::move(inputs), options, run_folder);
  trainer.resume();
  run.result = trainer.run();
  return run;
}

}  // namespace axial::train::testing
