// SPDX-License-Identifier: Apache-2.0
// The parity matrix: a decoder trained over every axis, every pair of axes and some triples, with ZeRO,
// recompute and pipelines, equals plain autograd without runner or mesh. tools/parity_matrix writes what it
// finds into docs/parallelism.md. What has no other order of sums gives the very bits: bits_test.cpp has
// more.
//
// On every mesh three runs. In fp64, so that a difference is a fault: losses and norms of five steps, weights
// and moments after them within 1e-9 of each tensor's largest value. With recompute, stopped after one step
// and gone on with: the gradients (the first moments of one step) within 1e-9, then the bits of the first
// run (within 1e-9 where groups of several blocks change an order of sums). In fp32 loss and gradients of one
// step within 5e-5.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/testing/parity_plain.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::MeshOptions;
using parallel::World;
using testing::ParityModel;
using testing::PlainRun;
using testing::Run;

constexpr int64_t kSteps = 5;

struct Case {
  MeshOptions mesh;
  int64_t recompute = 1;  ///< of the runs that recompute
  bool keep_attention = false;
  int64_t tile_tokens = 0;  ///< of all its runs
};

TrainOptions options_of(const Case& c, Precision precision, bool recomputes, int64_t steps) {
  TrainOptions options = testing::parity_options(precision, recomputes ? c.recompute : 0, steps);
  options.keep_attention = recomputes && c.keep_attention;
  options.tile_tokens = c.tile_tokens;
  return options;
}

std::string name_of(const Case& c, const ParityModel& model) {
  std::string name;
  for (const auto& [axis, degree] : {std::pair{"data", c.mesh.data},
                                     {"pipe", c.mesh.pipe},
                                     {"ring", c.mesh.ring},
                                     {"ulysses", c.mesh.ulysses},
                                     {"tensor", c.mesh.tensor}}) {
    if (degree > 1) name += fmt::format("{}{} {}", name.empty() ? "" : " x ", axis, degree);
  }
  if (name.empty()) name = "one rank";
  if (c.mesh.stages_per_rank > 1) name += fmt::format(", {} stages a rank", c.mesh.stages_per_rank);
  if (c.mesh.pipe_schedule == parallel::PipeSchedule::kGPipe) name += ", GPipe";
  return fmt::format("{} | {} | {} | {}{}{} | {}{}", name, c.mesh.zero,
                     c.mesh.sequence_regions ? "yes" : "no", c.recompute,
                     c.keep_attention ? ", attention kept" : "",
                     c.tile_tokens > 0 ? fmt::format(", tiles of {}", c.tile_tokens) : "", model.kind,
                     model.mask_file.empty() ? "" : ", mask of a file");
}

// A line of the table, for tools/parity_matrix.
void report(const std::string& name, double in_fp64, double in_fp32) {
  const char* file = std::getenv("AXIAL_PARITY_MATRIX");
  if (file == nullptr) return;
  std::ofstream(file, std::ios::app) << fmt::format("| {} | {:.1e} | {:.1e} |\n", name, in_fp64, in_fp32);
}

// Plain autograd's run, once per program.
const PlainRun& plain_run(const std::string& kind, Precision precision, int64_t steps) {
  static std::map<std::tuple<std::string, Precision, int64_t>, PlainRun> runs;
  const auto key = std::tuple(kind, precision, steps);
  if (!runs.contains(key)) {
    runs[key] = testing::train_plainly({kind}, testing::parity_options(precision, 0, steps));
  }
  return runs.at(key);
}

// The trainer's runs of a case, in folders of their own; compared on the first rank.
class Runs {
 public:
  Runs(const Case& c, const ParityModel& model, Communicator* ranks, std::filesystem::path folder)
      : case_(c), model_(model), ranks_(ranks), folder_(std::move(folder)), name_(name_of(c, model)) {}

  // Largest differences to plain autograd in fp64 and fp32.
  std::pair<double, double> compare() {
    const TrainOptions plain = options_of(case_, Precision::kFp64, false, kSteps);
    const TrainOptions again = options_of(case_, Precision::kFp64, true, kSteps);
    const TrainOptions narrow = options_of(case_, Precision::kFp32, true, 1);
    const Run whole = train("whole", plain);
    Run parts = train("parts", again, 1);
    double off = against_plain("whole", whole, Precision::kFp64, kSteps, 1e-9);
    off = std::max(off, against_plain("parts", parts, Precision::kFp64, 1, 1e-9));
    const Run rest = train("parts", again);
    parts.outcomes.insert(parts.outcomes.end(), rest.outcomes.begin(), rest.outcomes.end());
    if (is_first()) {
      // Gloo's order of sums over more than two ranks depends on the place in a buffer, and a group of blocks
      // is one buffer: groups of several then change it.
      const double tolerance = case_.recompute == 1 || summing_ranks() <= 2 ? 0 : 1e-9;
      const std::string what = name_ + ": recompute, stopped and gone on with";
      testing::compare_runs(whole, parts, tolerance, what);
      testing::compare_checkpoints([&] { return model_.build(); }, folder_ / "whole", folder_ / "parts",
                                   kSteps, tolerance, what);
    }
    const Run fp32 = train("fp32", narrow);
    return {off, against_plain("fp32", fp32, Precision::kFp32, 1, 5e-5)};
  }

 private:
  int64_t summing_ranks() const {
    const MeshOptions& m = case_.mesh;
    return m.data * m.ring * m.ulysses * (m.sequence_regions ? m.tensor : 1);
  }
  bool is_first() const { return ranks_ == nullptr || ranks_->mesh().rank() == 0; }

  Run train(const std::string& name, const TrainOptions& options, int64_t stop_after = -1) {
    if (is_first()) std::filesystem::create_directories(folder_ / name);
    if (ranks_ != nullptr) ranks_->barrier(parallel::all_axes(ranks_->mesh()));
    return testing::train_parity(folder_ / name, model_, options, case_.mesh, ranks_, stop_after);
  }

  // Of one step the gradients: AdamW's first step is their sign, also where they are rounding.
  double against_plain(const std::string& name, const Run& run, Precision precision, int64_t steps,
                       double tolerance) {
    if (!is_first()) return 0;
    const PlainRun& plain = plain_run(model_.kind, precision, steps);
    const std::string what = fmt::format("{}, {}", name_, name);
    return std::max(testing::compare_runs(plain.run, run, tolerance, what),
                    testing::compare_with_plain(plain, model_, folder_ / name, steps, tolerance, what,
                                                steps == 1 ? "exp_avg of" : ""));
  }

  Case case_;
  ParityModel model_;
  Communicator* ranks_;
  std::filesystem::path folder_;
  std::string name_;
};

void check(World& world, const Case& c, const std::string& kind, bool mask_of_file) {
  const auto ranks = world.make_communicator(parallel::make_mesh(c.mesh, world.size(), world.rank()));
  const auto folder = testing::shared_folder(world, *ranks, "parity");
  ParityModel model{kind};
  if (mask_of_file) {
    model.mask_file = folder / "mask.npy";
    if (world.rank() == 0) {
      std::filesystem::create_directories(folder);
      testing::write_mask(model.mask_file);
    }
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  }
  const auto [fp64, fp32] = Runs(c, model, ranks.get(), folder).compare();
  ranks->barrier(parallel::all_axes(ranks->mesh()));
  if (world.rank() != 0) return;
  std::filesystem::remove_all(folder);
  report(name_of(c, model), fp64, fp32);
}

MeshOptions mesh(int64_t data, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                 bool regions = false) {
  return {data, 1, ring, ulysses, tensor, zero, regions};
}

MeshOptions piped(MeshOptions options, int64_t degree, int64_t stages_per_rank = 1, bool gpipe = false) {
  options.pipe = degree;
  options.stages_per_rank = stages_per_rank;
  if (gpipe) options.pipe_schedule = parallel::PipeSchedule::kGPipe;
  return options;
}

// Tied models have a mask, which a file may say.
void check_cases(World& world, const std::vector<Case>& cases, bool mask_of_file = false) {
  for (const Case& c : cases) {
    for (const std::string kind : {"untied", "tied"}) {
      Case with_vocabulary = c;  // cut where it is tied
      with_vocabulary.mesh.replicate_vocabulary_below = kind == "tied" ? 0 : 1024;
      check(world, with_vocabulary, kind, mask_of_file && kind == "tied");
    }
  }
}

// Without the comparison of calls: it doubles their number, and other tests have it.
std::vector<axial::testing::RankOutcome> launch(int64_t size, const std::function<void(World&)>& body) {
  axial::testing::RanksOptions options;
  options.compare_calls = false;
  options.limit = std::chrono::minutes(15);  // many runs
  return run_ranks(size, body, options);
}

TEST(Parity, OneRank) {
  for (const std::string kind : {"untied", "tied"}) {
    const axial::testing::TemporaryFolder own;
    for (const Case& c : {Case{mesh(1, 1, 1, 1), 2}, Case{mesh(1, 1, 1, 1), 2, false, 7}}) {
      const auto folder = own / fmt::format("runs{}", c.tile_tokens);
      const auto [fp64, fp32] = Runs(c, {kind}, nullptr, folder).compare();
      report(name_of(c, {kind}), fp64, fp32);
    }
  }
}

TEST(Parity, AxesOfTwo) {
  EXPECT_EQ(failures(launch(2,
                            [](World& world) {
                              check_cases(world, {{mesh(2, 1, 1, 1)},
                                                  {mesh(2, 1, 1, 1, 3), 2},
                                                  {mesh(1, 2, 1, 1)},
                                                  {mesh(1, 2, 1, 1, 2), 2, true},
                                                  {mesh(1, 1, 2, 1)},
                                                  {mesh(1, 1, 2, 1, 1), 2, true},
                                                  {mesh(1, 1, 1, 2)},
                                                  {mesh(1, 1, 1, 2, 0, true), 2, true},
                                                  {mesh(1, 1, 1, 2, 0, true), 1, false, 7},
                                                  {mesh(1, 2, 1, 1, 3), 2, false, 4},
                                                  {piped(mesh(1, 1, 1, 1), 2)},
                                                  {piped(mesh(1, 1, 1, 1), 2, 2), 1, true},
                                                  {piped(mesh(1, 1, 1, 1), 2, 1, true), 2}});
                            })),
            "");
}

TEST(Parity, AxesOfFourAndPairs) {
  EXPECT_EQ(failures(launch(4,
                            [](World& world) {
                              check_cases(world,
                                          {{mesh(4, 1, 1, 1, 3)},
                                           {mesh(1, 4, 1, 1), 1},
                                           {mesh(1, 1, 4, 1)},
                                           {mesh(1, 1, 1, 4, 0, true)},
                                           {mesh(2, 2, 1, 1, 3), 2},
                                           {mesh(2, 1, 2, 1, 2)},
                                           {mesh(2, 1, 1, 2, 3, true), 1},
                                           {mesh(1, 2, 2, 1, 3)},
                                           {mesh(1, 2, 1, 2, 1, true)},
                                           {mesh(1, 1, 2, 2, 3)},
                                           {mesh(1, 2, 1, 2, 1, true), 1, true, 4}},
                                          /*mask_of_file=*/true);
                            })),
            "");
}

TEST(Parity, PipesOfFourAndPairs) {
  EXPECT_EQ(failures(launch(4,
                            [](World& world) {
                              check_cases(world,
                                          {{piped(mesh(1, 1, 1, 1), 4)},
                                           {piped(mesh(2, 1, 1, 1, 3), 2), 1},
                                           {piped(mesh(2, 1, 1, 1, 1), 2, 2)},
                                           {piped(mesh(1, 2, 1, 1), 2), 2},
                                           {piped(mesh(1, 1, 2, 1, 2), 2, 1, true)},
                                           {piped(mesh(1, 1, 1, 2, 0, true), 2, 2), 1}},
                                          /*mask_of_file=*/true);
                            })),
            "");
}

TEST(Parity, Triples) {
  EXPECT_EQ(failures(launch(8,
                            [](World& world) {
                              check_cases(world, {{mesh(2, 2, 1, 2, 0)},
                                                  {mesh(2, 2, 1, 2, 3, true), 2},
                                                  {mesh(2, 2, 2, 1, 3)},
                                                  {mesh(1, 2, 2, 2, 2, true), 1, true},
                                                  {piped(mesh(2, 1, 1, 2, 1, true), 2)},
                                                  {piped(mesh(2, 1, 1, 2, 3), 2, 2), 1},
                                                  {piped(mesh(1, 2, 2, 1, 3), 2)}});
                            })),
            "");
}

// One rank, then data x tensor x pipe with ZeRO 1, then a ring of eight, then one: as if nothing had
// happened.
void check_reshards(World& world) {
  const TrainOptions options = testing::parity_options(Precision::kFp64, 0, 8);
  std::filesystem::path folder;
  const auto go_on = [&](const MeshOptions& mesh_options, int64_t stop_after) {
    const auto ranks = world.make_communicator(parallel::make_mesh(mesh_options, world.size(), world.rank()));
    if (folder.empty()) folder = testing::shared_folder(world, *ranks, "reshards");
    if (mesh_options.data != 8) {
      testing::train_parity(folder, {"tied"}, options, mesh_options, ranks.get(), stop_after);
    } else if (world.rank() == 0) {  // alone
      testing::train_parity(folder, {"tied"}, options, {}, nullptr, stop_after);
    }
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  };
  const MeshOptions alone = mesh(8, 1, 1, 1);
  go_on(alone, 2);
  go_on(piped(mesh(2, 1, 1, 2, 1), 2), 4);
  go_on(mesh(1, 8, 1, 1), 6);
  go_on(alone, -1);
  if (world.rank() != 0) return;
  const PlainRun plain = testing::train_plainly({"tied"}, options);
  testing::compare_with_plain(plain, {"tied"}, folder, options.steps, 1e-9, "1 -> 2 x 2 x 2 -> ring 8 -> 1");
  std::filesystem::remove_all(folder);
}

TEST(Parity, RunsGoOnWithAnyMesh) { EXPECT_EQ(failures(launch(8, check_reshards)), ""); }

}  // namespace
}  // namespace axial::train
