// SPDX-License-Identifier: Apache-2.0
// The parity matrix: a decoder trained over every axis, every pair of axes and some triples, with ZeRO and
// recompute, equals the run of one rank. tools/parity_matrix writes what it finds into docs/parallelism.md.
//
// In fp64, so that a difference is a fault: losses and norms of five steps, weights and moments after them
// within 1e-9 of each tensor's largest value. In fp32 loss and gradients (the first moments) of one step
// within 5e-5.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "axial/data/packing/row_source.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/testing/compare_runs.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::MeshOptions;
using parallel::World;
using testing::Run;

constexpr int64_t kSteps = 5;
constexpr int64_t kLength = 29;  // odd: no number of ranks divides it

// Rows of three records and, in some, padding; nothing is alike in two rows.
class Rows final : public data::RowSource {
 public:
  using RowSource::RowSource;
  int64_t num_rows() const override { return 9; }
  int64_t num_tokens() const override { return 9 * kLength; }
  data::SourceRow row(int64_t index) const override {
    const int64_t r = index % num_rows();
    data::SourceRow out;
    const int64_t used = kLength - r % 4;
    out.row.record_starts = {0, 5 + r, 18 + r % 3};
    for (int64_t i = 0; i < used; ++i) out.row.tokens.push_back((r * 31 + i * i + i) % 69);
    out.row.next_token = r % 2 == 0 ? 7 : -1;
    out.names = {"row " + std::to_string(r)};
    return out;
  }
};

// 4 layers, 6 query and 2 key/value heads, dropout, biases.
models::Model build(const std::string& kind, const parallel::Mesh& mesh, bool regions) {
  nlohmann::json config = {{"vocab_size", 69},  {"hidden_size", 24},       {"num_layers", 4},
                           {"num_heads", 6},    {"num_kv_heads", 2},       {"head_dim", 4},
                           {"ffn_size", 22},    {"max_positions", 32},     {"init_std", 0.3},
                           {"head_bias", true}, {"residual_dropout", 0.2}, {"embedding_dropout", 0.1}};
  if (kind == "tied")
    config.update({{"tied_embeddings", true}, {"position", "alibi"}, {"activation", "swiglu"}});
  const models::ModelRegistry registry = models::all_models();
  models::Model model = registry.at("decoder").build(config);
  registry.at("decoder").parallelize(
      model, mesh, {.sequence_regions = regions, .replicate_vocabulary_below = kind == "tied" ? 0 : 1024});
  return model;
}

TrainOptions options_of(Precision precision, int64_t recompute) {
  TrainOptions options;
  options.steps = precision == Precision::kFp64 ? kSteps : 1;
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

Run train(const std::filesystem::path& folder, const std::string& kind, const TrainOptions& options,
          const MeshOptions& mesh_options, Communicator* ranks) {
  const parallel::Mesh mesh = ranks == nullptr ? parallel::Mesh::single() : ranks->mesh();
  const auto sequence = parallel::SequenceLayout::over(mesh, kLength);
  const Rows rows(sequence);
  const RunFolder run_folder = mesh.rank() == 0 ? RunFolder(folder) : RunFolder::of_first_rank(folder);
  Run run;
  TrainerInputs inputs;
  inputs.model = build(kind, mesh, mesh_options.sequence_regions);
  inputs.training = &rows;
  inputs.validation = &rows;
  inputs.show_progress = false;
  inputs.ranks = {ranks, mesh_options, sequence};
  inputs.on_step = [&](int64_t, const StepOutcome& outcome) { run.outcomes.push_back(outcome); };
  Trainer trainer(std::move(inputs), options, run_folder);
  run.result = trainer.run();
  return run;
}

struct Case {
  MeshOptions mesh;
  int64_t recompute = 0;
};

std::string name_of(const Case& c, const std::string& kind) {
  std::string name;
  for (const auto& [axis, degree] : {std::pair{"data", c.mesh.data},
                                     {"ring", c.mesh.ring},
                                     {"ulysses", c.mesh.ulysses},
                                     {"tensor", c.mesh.tensor}}) {
    if (degree > 1) name += fmt::format("{}{} {}", name.empty() ? "" : " x ", axis, degree);
  }
  return fmt::format("{} | {} | {} | {} | {}", name, c.mesh.zero, c.mesh.sequence_regions ? "yes" : "no",
                     c.recompute, kind);
}

// A line of the table, for tools/parity_matrix.
void report(const std::string& name, double in_fp64, double in_fp32) {
  const char* file = std::getenv("AXIAL_PARITY_MATRIX");
  if (file == nullptr) return;
  std::ofstream(file, std::ios::app) << fmt::format("| {} | {:.1e} | {:.1e} |\n", name, in_fp64, in_fp32);
}

void check(World& world, const Case& c, const std::string& kind) {
  const std::string name = name_of(c, kind);
  const auto ranks = world.make_communicator(parallel::make_mesh(c.mesh, world.size(), world.rank()));
  const axial::testing::TemporaryFolder own;
  double worst[2] = {0, 0};
  for (const Precision precision : {Precision::kFp64, Precision::kFp32}) {
    const bool exact = precision == Precision::kFp64;
    const double tolerance = exact ? 1e-9 : 5e-5;
    const TrainOptions options = options_of(precision, c.recompute);
    const auto folder = testing::shared_folder(world, *ranks, exact ? "parity64" : "parity32");
    const Run many = train(folder, kind, options, c.mesh, ranks.get());
    if (world.rank() == 0) {
      const Run one = train(own / "one", kind, options_of(precision, 0), {}, nullptr);
      double& off = worst[exact ? 0 : 1];
      off = testing::compare_runs(one, many, tolerance, name);
      const auto whole = [&] { return build(kind, parallel::Mesh::single(), false); };
      // Of fp32 the gradients alone: AdamW's first step is their sign, also where they are rounding.
      const double state = testing::compare_checkpoints(whole, own / "one", folder, options.steps, tolerance,
                                                        name, exact ? "" : "exp_avg of");
      off = std::max(off, state);
      std::filesystem::remove_all(own / "one");
      std::filesystem::remove_all(folder);
    }
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  }
  if (world.rank() == 0) report(name, worst[0], worst[1]);
}

MeshOptions mesh(int64_t data, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                 bool regions = false) {
  return {data, 1, ring, ulysses, tensor, zero, regions};
}

void check_cases(World& world, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    for (const std::string kind : {"untied", "tied"}) check(world, c, kind);
  }
}

// Without the comparison of calls: it doubles their number, and other tests have it.
std::vector<axial::testing::RankOutcome> launch(int64_t size, const std::function<void(World&)>& body) {
  axial::testing::RanksOptions options;
  options.compare_calls = false;
  return run_ranks(size, body, options);
}

TEST(Parity, AxesOfTwo) {
  EXPECT_EQ(failures(launch(2,
                            [](World& world) {
                              check_cases(world, {{mesh(2, 1, 1, 1)},
                                                  {mesh(2, 1, 1, 1, 3), 2},
                                                  {mesh(1, 2, 1, 1)},
                                                  {mesh(1, 2, 1, 1, 2), 2},
                                                  {mesh(1, 1, 2, 1)},
                                                  {mesh(1, 1, 2, 1, 1), 2},
                                                  {mesh(1, 1, 1, 2)},
                                                  {mesh(1, 1, 1, 2, 0, true), 2}});
                            })),
            "");
}

TEST(Parity, AxesOfFourAndPairs) {
  EXPECT_EQ(failures(launch(4,
                            [](World& world) {
                              check_cases(world, {{mesh(4, 1, 1, 1, 3)},
                                                  {mesh(1, 4, 1, 1), 1},
                                                  {mesh(1, 1, 4, 1)},
                                                  {mesh(1, 1, 1, 4, 0, true)},
                                                  {mesh(2, 2, 1, 1, 3), 2},
                                                  {mesh(2, 1, 2, 1, 2)},
                                                  {mesh(2, 1, 1, 2, 3, true), 1},
                                                  {mesh(1, 2, 2, 1, 3)},
                                                  {mesh(1, 2, 1, 2, 1, true)},
                                                  {mesh(1, 1, 2, 2, 3)}});
                            })),
            "");
}

TEST(Parity, Triples) {
  EXPECT_EQ(failures(launch(8,
                            [](World& world) {
                              check_cases(world, {{mesh(2, 2, 1, 2, 0)},
                                                  {mesh(2, 2, 1, 2, 3, true), 2},
                                                  {mesh(2, 2, 2, 1, 3)},
                                                  {mesh(1, 2, 2, 2, 2, true), 1}});
                            })),
            "");
}

}  // namespace
}  // namespace axial::train
