// SPDX-License-Identifier: Apache-2.0
// The parity matrix: a decoder trained over every axis, every pair of axes and some triples, with ZeRO,
// recompute and pipelines, equals plain autograd without runner or mesh. tools/parity_matrix writes what it
// finds into docs/parallelism.md.
//
// In fp64, so that a difference is a fault: losses and norms of five steps, weights and moments after them
// within 1e-9 of each tensor's largest value. In fp32 loss and gradients (the first moments) of one step
// within 5e-5.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/testing/parity_case.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::MeshOptions;
using parallel::World;
using testing::PlainRun;
using testing::Run;

constexpr int64_t kSteps = 5;

TrainOptions options_of(Precision precision, int64_t recompute) {
  return testing::parity_options(precision, recompute, precision == Precision::kFp64 ? kSteps : 1);
}

struct Case {
  MeshOptions mesh;
  int64_t recompute = 0;
  bool keep_attention = false;
};

std::string name_of(const Case& c, const std::string& kind) {
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
  return fmt::format(
      "{} | {} | {} | {} | {}", name, c.mesh.zero, c.mesh.sequence_regions ? "yes" : "no",
      c.keep_attention ? fmt::format("{}, attention kept", c.recompute) : std::to_string(c.recompute), kind);
}

// A line of the table, for tools/parity_matrix.
void report(const std::string& name, double in_fp64, double in_fp32) {
  const char* file = std::getenv("AXIAL_PARITY_MATRIX");
  if (file == nullptr) return;
  std::ofstream(file, std::ios::app) << fmt::format("| {} | {:.1e} | {:.1e} |\n", name, in_fp64, in_fp32);
}

// Plain autograd's run, once per program.
const PlainRun& plain_run(const std::string& kind, Precision precision) {
  static std::map<std::pair<std::string, Precision>, PlainRun> runs;
  const auto key = std::pair(kind, precision);
  if (!runs.contains(key)) runs[key] = testing::train_plainly(kind, options_of(precision, 0));
  return runs.at(key);
}

// Largest distances in fp64 and fp32 of a run in `folder`.
double compare(const Case& c, const std::string& kind, Precision precision, const Run& run,
               const std::filesystem::path& folder) {
  const bool exact = precision == Precision::kFp64;
  const double tolerance = exact ? 1e-9 : 5e-5;
  const std::string name = name_of(c, kind);
  const PlainRun& plain = plain_run(kind, precision);
  const double off = testing::compare_runs(plain.run, run, tolerance, name);
  // Of fp32 the gradients alone: AdamW's first step is their sign, also where they are rounding.
  return std::max(off, testing::compare_with_plain(plain, kind, folder, options_of(precision, 0).steps,
                                                   tolerance, name, exact ? "" : "exp_avg of"));
}

void check(World& world, const Case& c, const std::string& kind) {
  const auto ranks = world.make_communicator(parallel::make_mesh(c.mesh, world.size(), world.rank()));
  double worst[2] = {0, 0};
  for (const Precision precision : {Precision::kFp64, Precision::kFp32}) {
    const auto folder =
        testing::shared_folder(world, *ranks, precision == Precision::kFp64 ? "parity64" : "parity32");
    TrainOptions options = options_of(precision, c.recompute);
    options.keep_attention = c.keep_attention;
    const Run run = testing::train_parity(folder, kind, options, c.mesh, ranks.get());
    if (world.rank() == 0) {
      worst[precision == Precision::kFp64 ? 0 : 1] = compare(c, kind, precision, run, folder);
      std::filesystem::remove_all(folder);
    }
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  }
  if (world.rank() == 0) report(name_of(c, kind), worst[0], worst[1]);
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

void check_cases(World& world, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    for (const std::string kind : {"untied", "tied"}) {
      Case with_vocabulary = c;  // cut where it is tied
      with_vocabulary.mesh.replicate_vocabulary_below = kind == "tied" ? 0 : 1024;
      check(world, with_vocabulary, kind);
    }
  }
}

// Without the comparison of calls: it doubles their number, and other tests have it.
std::vector<axial::testing::RankOutcome> launch(int64_t size, const std::function<void(World&)>& body) {
  axial::testing::RanksOptions options;
  options.compare_calls = false;
  return run_ranks(size, body, options);
}

TEST(Parity, OneRank) {
  for (const std::string kind : {"untied", "tied"}) {
    for (const int64_t recompute : {0, 2}) {
      double worst[2] = {0, 0};
      const Case c{mesh(1, 1, 1, 1), recompute};
      for (const Precision precision : {Precision::kFp64, Precision::kFp32}) {
        const axial::testing::TemporaryFolder own;
        const auto run =
            testing::train_parity(own / "run", kind, options_of(precision, recompute), {}, nullptr);
        worst[precision == Precision::kFp64 ? 0 : 1] = compare(c, kind, precision, run, own / "run");
      }
      report(name_of(c, kind), worst[0], worst[1]);
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
                                                  {piped(mesh(1, 1, 1, 1), 2)},
                                                  {piped(mesh(1, 1, 1, 1), 2, 2), 1, true},
                                                  {piped(mesh(1, 1, 1, 1), 2, 1, true), 2}});
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
                                                  {mesh(1, 1, 2, 2, 3)},
                                                  {piped(mesh(1, 1, 1, 1), 4)},
                                                  {piped(mesh(2, 1, 1, 1, 3), 2), 1},
                                                  {piped(mesh(2, 1, 1, 1, 1), 2, 2)},
                                                  {piped(mesh(1, 2, 1, 1), 2), 2},
                                                  {piped(mesh(1, 1, 2, 1, 2), 2, 1, true)},
                                                  {piped(mesh(1, 1, 1, 2, 0, true), 2, 2), 1}});
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
  TrainOptions options = options_of(Precision::kFp64, 0);
  options.steps = 8;
  std::filesystem::path folder;
  const auto go_on = [&](const MeshOptions& mesh_options, int64_t stop_after) {
    const auto ranks = world.make_communicator(parallel::make_mesh(mesh_options, world.size(), world.rank()));
    if (folder.empty()) folder = testing::shared_folder(world, *ranks, "reshards");
    if (mesh_options.data != 8) {
      testing::train_parity(folder, "tied", options, mesh_options, ranks.get(), stop_after);
    } else if (world.rank() == 0) {  // alone
      testing::train_parity(folder, "tied", options, {}, nullptr, stop_after);
    }
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  };
  const MeshOptions alone = mesh(8, 1, 1, 1);
  go_on(alone, 2);
  go_on(piped(mesh(2, 1, 1, 2, 1), 2), 4);
  go_on(mesh(1, 8, 1, 1), 6);
  go_on(alone, -1);
  if (world.rank() != 0) return;
  const PlainRun plain = testing::train_plainly("tied", options);
  testing::compare_with_plain(plain, "tied", folder, options.steps, 1e-9, "1 -> 2 x 2 x 2 -> ring 8 -> 1");
  std::filesystem::remove_all(folder);
}

TEST(Parity, RunsGoOnWithAnyMesh) { EXPECT_EQ(failures(launch(8, check_reshards)), ""); }

}  // namespace
}  // namespace axial::train
