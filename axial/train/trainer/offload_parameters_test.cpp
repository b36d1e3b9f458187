// SPDX-License-Identifier: Apache-2.0
// Runs whose parameters are outside of the device between their uses: the bits of runs that keep them there,
// on every kind of mesh, alone and with everything else offloaded, and over stops that change where they are.
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
constexpr OffloadTo kNone = OffloadTo::kNone, kHost = OffloadTo::kHost, kFile = OffloadTo::kFile;

struct Places {
  OffloadTo parameters = kNone, optimizer = kNone, checkpoints = kNone;
};

TrainOptions options_of(Precision precision, const Places& places) {
  TrainOptions options = testing::parity_options(precision, 1, kSteps);
  options.offload_parameters = places.parameters;
  options.offload_optimizer = places.optimizer;
  options.offload_checkpoints = places.checkpoints;
  return options;
}

MeshOptions mesh(int64_t data, int64_t pipe, int64_t ring, int64_t ulysses, int64_t tensor) {
  MeshOptions options;
  options.data = data;
  options.pipe = pipe;
  options.ring = ring;
  options.ulysses = ulysses;
  options.tensor = tensor;
  options.zero = 3;
  options.sequence_regions = tensor > 1;
  return options;
}

void compare_bits(const ParityModel& model, const Run& one, const Run& other, const std::filesystem::path& a,
                  const std::filesystem::path& b, const std::string& what) {
  testing::require(one.outcomes.size() == other.outcomes.size(), what + ": another number of steps");
  for (size_t i = 0; i < one.outcomes.size(); ++i) {
    testing::require(one.outcomes[i].loss == other.outcomes[i].loss &&
                         one.outcomes[i].grad_norm == other.outcomes[i].grad_norm,
                     fmt::format("{}: loss or norm of step {}", what, i));
  }
  testing::compare_checkpoints([&] { return model.build(); }, a, b, kSteps, 0, what);
}

void check(World& world, const std::vector<MeshOptions>& meshes, Precision precision) {
  const std::vector<Places> places{
      {kHost, kNone, kNone}, {kFile, kHost, kHost}, {kHost, kFile, kFile}, {kFile, kFile, kNone}, {kFile}};
  for (const std::string kind : {"untied", "tied"}) {
    for (size_t i = 0; i < meshes.size(); ++i) {
      const auto ranks = world.make_communicator(parallel::make_mesh(meshes[i], world.size(), world.rank()));
      const auto folder = testing::shared_folder(world, *ranks, "parameters");
      const auto train = [&](const std::string& name, const Places& where) {
        return testing::train_parity(folder / name, {kind}, options_of(precision, where), meshes[i],
                                     ranks.get());
      };
      const Run kept = train("kept", {});
      const Run away = train("away", places[i % places.size()]);
      if (world.rank() == 0)
        compare_bits({kind}, kept, away, folder / "kept", folder / "away",
                     fmt::format("{} mesh {}", kind, i));
      ranks->barrier(parallel::all_axes(ranks->mesh()));
      if (world.rank() == 0) std::filesystem::remove_all(folder);
    }
  }
}

using Meshes = std::vector<std::pair<Precision, std::vector<MeshOptions>>>;

std::string failures_of(int64_t ranks, const Meshes& meshes) {
  return axial::testing::failures(axial::testing::run_ranks(ranks, [&](World& world) {
    for (const auto& [precision, some] : meshes) check(world, some, precision);
  }));
}

// In all places.
TEST(OffloadParameters, OneRankTrainsToTheSameBits) {
  const std::vector<MeshOptions> meshes(5, mesh(1, 1, 1, 1, 1));
  EXPECT_EQ(failures_of(1, {{Precision::kFp32, meshes}, {Precision::kBf16, meshes}}), "");
}

// Over tensor alone most parameters are shared with nobody.
TEST(OffloadParameters, TwoRanksTrainToTheSameBits) {
  const std::vector<MeshOptions> meshes{mesh(2, 1, 1, 1, 1), mesh(1, 2, 1, 1, 1), mesh(1, 1, 2, 1, 1),
                                        mesh(1, 1, 1, 2, 1), mesh(1, 1, 1, 1, 2)};
  EXPECT_EQ(failures_of(2, {{Precision::kFp32, meshes}, {Precision::kBf16, {meshes[4], meshes[0]}}}), "");
}

TEST(OffloadParameters, FourRanksTrainToTheSameBits) {
  EXPECT_EQ(
      failures_of(4, {{Precision::kFp32, {mesh(2, 2, 1, 1, 1), mesh(1, 1, 2, 2, 1), mesh(2, 1, 1, 1, 2)}}}),
      "");
}

// Stopped with values in a file, gone on with them on the host, then on the device without ZeRO.
TEST(OffloadParameters, ARunGoesOnWithThemElsewhere) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const TemporaryFolder folder;
    const auto train = [&](const std::string& name, const Places& places, int64_t stop_after) {
      MeshOptions options;
      options.zero = places.parameters == kNone ? 0 : 3;
      return testing::train_parity(folder / name, {"untied"}, options_of(precision, places), options, nullptr,
                                   stop_after);
    };
    const testing::Run whole = train("whole", {}, -1);
    testing::Run parts = train("parts", {kFile, kFile}, 1);
    for (const Places& places : {Places{kHost, kHost}, Places{}}) {
      const testing::Run more = train("parts", places, places.parameters == kHost ? 2 : -1);
      parts.outcomes.insert(parts.outcomes.end(), more.outcomes.begin(), more.outcomes.end());
    }
    EXPECT_NO_THROW(compare_bits({"untied"}, whole, parts, folder / "whole", folder / "parts", "resume"));
  }
}

TEST(OffloadParameters, RefusesWhatItCannotDo) {
  const TemporaryFolder folder;
  TrainOptions options = options_of(Precision::kFp32, {kFile});
  options.offload_folder = folder.path();
  const auto make = [&](int64_t zero) {
    models::Model model = ParityModel{"untied"}.build();
    MeshOptions parallel;
    parallel.zero = zero;
    TrainingStep(model, options, at::kCPU, {nullptr, parallel, {}});
  };
  EXPECT_NO_THROW(make(3));
  try {
    make(2);
    FAIL() << "expected an error";
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("expected none without parallel.zero 3"));
  }
  options.offload_folder = folder / "gone";
  EXPECT_THROW(make(3), IoError);
}

}  // namespace
}  // namespace axial::train
