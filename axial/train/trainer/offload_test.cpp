// SPDX-License-Identifier: Apache-2.0
// Runs whose checkpoints of blocks or optimizer states are outside of the device: the bits of runs that keep
// them there, on every kind of mesh, and over a stop and a resume that changes where they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/ops/common/memory_count.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/testing/parity_case.h"

namespace axial::train {
namespace {

using axial::testing::TemporaryFolder;
using parallel::MeshOptions;
using parallel::OffloadTo;
using parallel::World;
using testing::ParityModel;
using testing::ParityRows;
using testing::Run;

constexpr int64_t kSteps = 3;

TrainOptions options_of(Precision precision, OffloadTo checkpoints, OffloadTo optimizer) {
  TrainOptions options = testing::parity_options(precision, 1, kSteps);
  options.offload_checkpoints = checkpoints;
  options.offload_optimizer = optimizer;
  return options;
}

models::Model build() { return ParityModel{"untied"}.build(); }

void compare_bits(const Run& one, const Run& other, const std::filesystem::path& a,
                  const std::filesystem::path& b, const std::string& what) {
  testing::require(one.outcomes.size() == other.outcomes.size(), what + ": another number of steps");
  for (size_t i = 0; i < one.outcomes.size(); ++i) {
    testing::require(one.outcomes[i].loss == other.outcomes[i].loss &&
                         one.outcomes[i].grad_norm == other.outcomes[i].grad_norm,
                     fmt::format("{}: loss or norm of step {}", what, i));
  }
  testing::compare_checkpoints(build, a, b, kSteps, 0, what);
}

void check(World& world, const std::vector<MeshOptions>& meshes, Precision precision) {
  for (size_t i = 0; i < meshes.size(); ++i) {
    const auto ranks = world.make_communicator(parallel::make_mesh(meshes[i], world.size(), world.rank()));
    const auto folder = testing::shared_folder(world, *ranks, "offload");
    const auto train = [&](const std::string& name, OffloadTo checkpoints, OffloadTo optimizer) {
      return testing::train_parity(folder / name, {"untied"}, options_of(precision, checkpoints, optimizer),
                                   meshes[i], ranks.get());
    };
    const Run kept = train("kept", OffloadTo::kNone, OffloadTo::kNone);
    const bool turn = i % 2 == 0;
    const Run moved = train("moved", turn ? OffloadTo::kHost : OffloadTo::kFile,
                            turn ? OffloadTo::kFile : OffloadTo::kHost);
    if (world.rank() == 0)
      compare_bits(kept, moved, folder / "kept", folder / "moved", fmt::format("mesh {}", i));
    ranks->barrier(parallel::all_axes(ranks->mesh()));
    if (world.rank() == 0) std::filesystem::remove_all(folder);
  }
}

MeshOptions mesh(int64_t data, int64_t pipe, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero,
                 int64_t stages_per_rank = 1, bool gpipe = false) {
  MeshOptions options;
  options.data = data;
  options.pipe = pipe;
  options.ring = ring;
  options.ulysses = ulysses;
  options.tensor = tensor;
  options.zero = zero;
  options.stages_per_rank = stages_per_rank;
  if (gpipe) options.pipe_schedule = parallel::PipeSchedule::kGPipe;
  options.sequence_regions = tensor > 1;
  return options;
}

std::string failures_of(int64_t ranks, const std::vector<MeshOptions>& meshes, Precision precision) {
  return axial::testing::failures(
      axial::testing::run_ranks(ranks, [&](World& world) { check(world, meshes, precision); }));
}

TEST(Offload, TwoRanksTrainToTheSameBits) {
  const std::vector<MeshOptions> meshes{mesh(2, 1, 1, 1, 1, 0),          mesh(2, 1, 1, 1, 1, 3),
                                        mesh(1, 2, 1, 1, 1, 0),          mesh(1, 2, 1, 1, 1, 0, 2),
                                        mesh(1, 2, 1, 1, 1, 0, 1, true), mesh(1, 1, 2, 1, 1, 1),
                                        mesh(1, 1, 1, 2, 1, 2),          mesh(1, 1, 1, 1, 2, 0)};
  EXPECT_EQ(failures_of(2, meshes, Precision::kFp32), "");
}

TEST(Offload, TwoRanksTrainToTheSameBitsInBfloat16) {
  EXPECT_EQ(failures_of(2, {mesh(2, 1, 1, 1, 1, 3), mesh(1, 2, 1, 1, 1, 0, 2)}, Precision::kBf16), "");
}

TEST(Offload, FourRanksTrainToTheSameBits) {
  EXPECT_EQ(failures_of(4, {mesh(2, 2, 1, 1, 1, 3), mesh(1, 2, 1, 1, 2, 0, 2), mesh(1, 1, 2, 2, 1, 3)},
                        Precision::kFp32),
            "");
}

// One rank, every precision; stopped with states in a file and gone on with them on the host and on the
// device.
TEST(Offload, ARunGoesOnWithItsStatesElsewhere) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const TemporaryFolder folder;
    const auto train = [&](const std::string& name, OffloadTo to, int64_t stop_after) {
      return testing::train_parity(folder / name, {"untied"}, options_of(precision, OffloadTo::kNone, to), {},
                                   nullptr, stop_after);
    };
    const testing::Run whole = train("whole", OffloadTo::kNone, -1);
    testing::Run parts = train("parts", OffloadTo::kFile, 1);
    for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kNone}) {
      const testing::Run more = train("parts", to, to == OffloadTo::kHost ? 2 : -1);
      parts.outcomes.insert(parts.outcomes.end(), more.outcomes.begin(), more.outcomes.end());
    }
    EXPECT_NO_THROW(compare_bits(whole, parts, folder / "whole", folder / "parts", "resume"));
  }
}

// A step of one rank, on the host or planned.
struct Counted {
  int64_t resident = 0, peak = 0, optimizer = 0;
  std::vector<int64_t> away;
};

Counted count(OffloadTo checkpoints, OffloadTo optimizer, at::Device device, const TemporaryFolder& folder) {
  TrainOptions options = options_of(Precision::kBf16, checkpoints, optimizer);
  options.offload_folder = folder.path();
  const ParityRows rows(parallel::SequenceLayout::over(parallel::Mesh::single(), testing::kParityLength));
  ops::MemoryCount memory;
  models::Model model = build();
  TrainingStep step(model, options, device);
  Counted out;
  out.resident = memory.live();
  std::vector<data::Batch> batches;
  for (const parallel::Interval& part : micro_batches_of(options, parallel::Mesh::single(), 0)) {
    batches.push_back(rows.rows(part.begin, part.size()));
  }
  memory.reset_peak();
  step.run(batches, 0);
  out.peak = memory.peak();
  out.optimizer = memory.peak(ops::MemoryUse::kOptimizer);
  const auto bytes = step.offloaded();
  out.away = {bytes.host.live, bytes.host.peak, bytes.file.live, bytes.file.peak};
  return out;
}

TEST(Offload, TheDeviceLosesWhatTheOtherSpacesGain) {
  const TemporaryFolder folder;
  const Counted kept = count(OffloadTo::kNone, OffloadTo::kNone, at::kCPU, folder);
  int64_t parameters = 0;
  {
    models::Model model = build();
    parameters = model.parameters->num_elements();
  }
  EXPECT_EQ(kept.optimizer, 12 * parameters);
  for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
    const Counted states = count(OffloadTo::kNone, to, at::kCPU, folder);
    EXPECT_EQ(states.optimizer, 0);
    EXPECT_EQ(states.resident, kept.resident - 12 * parameters);
    EXPECT_EQ(states.peak, kept.peak - 12 * parameters);
    EXPECT_GE(states.away[to == OffloadTo::kFile ? 2 : 0], 12 * parameters);  // whole pages
    const Counted both = count(to, to, at::kCPU, folder);
    EXPECT_LT(both.peak, states.peak);
    // Planned, all of them are the same; what a plan takes on the device is in plan_step_test.cpp.
    EXPECT_EQ(count(to, to, at::kMeta, folder).away, both.away);
    EXPECT_EQ(count(to, to, at::kMeta, folder).resident, both.resident);
  }
}

TEST(Offload, RefusesWhatItCannotDo) {
  TrainOptions options = options_of(Precision::kFp32, OffloadTo::kHost, OffloadTo::kNone);
  options.recompute_group = 0;
  EXPECT_THROW(options.validate(), ValueError);
  const TemporaryFolder folder;
  options = options_of(Precision::kFp32, OffloadTo::kNone, OffloadTo::kFile);
  models::Model model = build();
  EXPECT_THROW(TrainingStep(model, options, at::kCPU), ValueError);  // a folder is wanted
  options.offload_folder = folder / "gone";
  EXPECT_THROW(TrainingStep(model, options, at::kCPU), IoError);
}

}  // namespace
}  // namespace axial::train
