// SPDX-License-Identifier: Apache-2.0
// Meshes that change no order of sums train to the very bits: stages against micro-batches on one rank, ZeRO
// against plain data parallelism. The decoder of the parity matrix in fp32, five steps, without clipping,
// whose norm is another sum. That recompute gives the same bits is in parity_test.cpp, on every mesh.
#include <gtest/gtest.h>

#include "axial/testing/ranks/ranks.h"
#include "axial/train/testing/parity_case.h"

namespace axial::train {
namespace {

using parallel::MeshOptions;
using parallel::World;
using testing::ParityModel;
using testing::Run;

constexpr int64_t kSteps = 5;

TrainOptions options_of(int64_t micro_batch) {
  TrainOptions options = testing::parity_options(Precision::kFp32, 0, kSteps);
  options.micro_batch = micro_batch;
  options.clip_norm = 0;
  return options;
}

MeshOptions over_pipe(int64_t stages_per_rank, bool gpipe) {
  MeshOptions options;
  options.pipe = 2;
  options.stages_per_rank = stages_per_rank;
  if (gpipe) options.pipe_schedule = parallel::PipeSchedule::kGPipe;
  return options;
}

MeshOptions over_data(int64_t zero) {
  MeshOptions options;
  options.data = 2;
  options.zero = zero;
  return options;
}

// Losses, weights and moments of two runs.
void compare_bits(const Run& one, const Run& other, const std::filesystem::path& folder,
                  const std::string& name) {
  for (size_t i = 0; i < one.outcomes.size(); ++i) {
    testing::require(one.outcomes[i].loss == other.outcomes.at(i).loss,
                     fmt::format("{}: loss of step {}", name, i));
  }
  testing::compare_checkpoints([] { return ParityModel{"untied"}.build(); }, folder / "one", folder / name,
                               kSteps, 0, name);
}

// Runs over these meshes against the first of them, or against one rank alone.
void check(World& world, const std::vector<MeshOptions>& meshes, bool against_one_rank,
           const TrainOptions& options) {
  const auto first = world.make_communicator(parallel::make_mesh(meshes[0], world.size(), world.rank()));
  const auto folder = testing::shared_folder(world, *first, "bits");
  Run one;
  for (size_t i = 0; i < meshes.size(); ++i) {
    const auto ranks = world.make_communicator(parallel::make_mesh(meshes[i], world.size(), world.rank()));
    if (i == 0 && against_one_rank && world.rank() == 0) {
      one = testing::train_parity(folder / "one", {"untied"}, options, {}, nullptr);
    }
    const bool is_one = i == 0 && !against_one_rank;
    const std::string name = is_one ? "one" : fmt::format("mesh {}", i);
    const Run run = testing::train_parity(folder / name, {"untied"}, options, meshes[i], ranks.get());
    if (is_one) one = run;
    if (!is_one && world.rank() == 0) compare_bits(one, run, folder, name);
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  }
  if (world.rank() == 0) std::filesystem::remove_all(folder);
}

TEST(Bits, StagesAreMicroBatchesOnOneRank) {
  const auto body = [](World& world) {
    check(world, {over_pipe(1, false), over_pipe(2, false), over_pipe(1, true)}, true, options_of(2));
  };
  EXPECT_EQ(axial::testing::failures(axial::testing::run_ranks(2, body)), "");
}

// One micro-batch: with more, ZeRO 2 and 3 add up over ranks before they add up over micro-batches.
TEST(Bits, ZeroIsDataParallelism) {
  const auto body = [](World& world) {
    check(world, {over_data(0), over_data(1), over_data(2), over_data(3)}, false, options_of(3));
  };
  EXPECT_EQ(axial::testing::failures(axial::testing::run_ranks(2, body)), "");
}

TEST(Bits, ZeroOfStatesIsDataParallelismWithAnyMicroBatches) {
  const auto body = [](World& world) { check(world, {over_data(0), over_data(1)}, false, options_of(1)); };
  EXPECT_EQ(axial::testing::failures(axial::testing::run_ranks(2, body)), "");
}

}  // namespace
}  // namespace axial::train
