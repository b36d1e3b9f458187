// SPDX-License-Identifier: Apache-2.0
// Runs whose checkpoints of blocks are cut over the ranks of tensor: the bits of runs that keep them whole,
// on every mesh with tensor, also with the parts outside of the device; nothing changes with sequence
// regions.
#include <gtest/gtest.h>

#include "axial/testing/ranks/ranks.h"
#include "axial/train/testing/parity_case.h"

namespace axial::train {
namespace {

using parallel::MeshOptions;
using parallel::OffloadTo;
using parallel::World;
using testing::ParityModel;
using testing::Run;

constexpr int64_t kSteps = 2;

struct Case {
  MeshOptions mesh;
  int64_t recompute = 1;
  OffloadTo to = OffloadTo::kNone;
  bool keep_attention = false;
  int64_t tile_tokens = 0;
};

MeshOptions mesh(int64_t data, int64_t pipe, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                 bool regions = false) {
  MeshOptions options;
  options.data = data;
  options.pipe = pipe;
  options.ring = ring;
  options.ulysses = ulysses;
  options.tensor = tensor;
  options.zero = zero;
  options.sequence_regions = regions;
  return options;
}

int64_t gathered_bytes(const parallel::Communicator& ranks) {
  const auto traffic = ranks.traffic();
  const auto found = traffic.find({"tensor", "all_gather"});
  return found == traffic.end() ? 0 : found->second.bytes;
}

void check(World& world, const Case& c, const std::string& what) {
  const auto ranks = world.make_communicator(parallel::make_mesh(c.mesh, world.size(), world.rank()));
  const auto folder = testing::shared_folder(world, *ranks, "partition");
  const ParityModel model{"untied"};
  int64_t sent[2] = {};
  const auto train = [&](const std::string& name, bool partitions) {
    TrainOptions options = testing::parity_options(Precision::kFp32, c.recompute, kSteps);
    options.partition_activations = partitions;
    options.offload_checkpoints = partitions ? c.to : OffloadTo::kNone;
    options.keep_attention = c.keep_attention;
    options.tile_tokens = c.tile_tokens;
    ranks->clear_traffic();
    Run run = testing::train_parity(folder / name, model, options, c.mesh, ranks.get());
    sent[partitions] = gathered_bytes(*ranks);
    return run;
  };
  const Run kept = train("kept", false), cut = train("cut", true);
  for (size_t i = 0; i < kept.outcomes.size(); ++i) {
    testing::require(kept.outcomes[i].loss == cut.outcomes[i].loss &&
                         kept.outcomes[i].grad_norm == cut.outcomes[i].grad_norm,
                     fmt::format("{}: loss or norm of step {}", what, i));
  }
  if (c.mesh.sequence_regions) {
    testing::require(sent[0] == sent[1], what + ": regions and still more is sent");
  } else {
    testing::require(sent[1] > sent[0], what + ": nothing was gathered");
  }
  if (world.rank() == 0)
    testing::compare_checkpoints([&] { return model.build(); }, folder / "kept", folder / "cut", kSteps, 0,
                                 what);
  ranks->barrier(parallel::all_axes(ranks->mesh()));
  if (world.rank() == 0) std::filesystem::remove_all(folder);
}

std::string failures_of(int64_t ranks, const std::vector<Case>& cases) {
  return axial::testing::failures(axial::testing::run_ranks(ranks, [&](World& world) {
    for (size_t i = 0; i < cases.size(); ++i) check(world, cases[i], fmt::format("case {}", i));
  }));
}

TEST(PartitionActivations, TwoRanksTrainToTheSameBits) {
  EXPECT_EQ(failures_of(2, {{mesh(1, 1, 1, 1, 2)},
                            {mesh(1, 1, 1, 1, 2), 2, OffloadTo::kHost},
                            {mesh(1, 1, 1, 1, 2), 1, OffloadTo::kFile, true},
                            {mesh(1, 1, 1, 1, 2), 1, OffloadTo::kNone, false, 7},
                            {mesh(1, 1, 1, 1, 2, 0, true)}}),
            "");
}

TEST(PartitionActivations, FourRanksTrainToTheSameBits) {
  EXPECT_EQ(failures_of(4, {{mesh(1, 1, 1, 1, 4)},
                            {mesh(2, 1, 1, 1, 2, 3), 1, OffloadTo::kHost},
                            {mesh(1, 1, 2, 1, 2), 2},
                            {mesh(1, 1, 1, 2, 2), 1, OffloadTo::kFile},
                            {mesh(1, 2, 1, 1, 2)}}),
            "");
}

TEST(PartitionActivations, RefusesNothingToCut) {
  TrainOptions options;
  options.partition_activations = true;
  EXPECT_THROW(options.validate(), ValueError);
  options.recompute_group = 1;
  EXPECT_NO_THROW(options.validate());
}

}  // namespace
}  // namespace axial::train
