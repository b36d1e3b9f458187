// SPDX-License-Identifier: Apache-2.0
// Runs with a learned table of positions that ranks of a sequence share: they are those of plain autograd,
// their checkpoints have one table that any mesh reads, and it may have more rows when a run goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/models/decoder/parallelize.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/testing/parity_plain.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::MeshOptions;
using parallel::World;
using ::testing::HasSubstr;
using testing::ParityModel;

constexpr int64_t kSteps = 3;

MeshOptions mesh(int64_t data, int64_t pipe, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero,
                 bool regions = false) {
  return {data, pipe, ring, ulysses, tensor, zero, regions};
}

ParityModel model_of(bool one_record, int64_t max_positions = testing::kMaxPositions) {
  ParityModel model{"learned"};
  model.one_record = one_record;
  model.max_positions = max_positions;
  return model;
}

// The run of these meshes, a step each and the last to the end, against plain autograd.
void check_run(World& world, const std::vector<MeshOptions>& meshes, bool one_record) {
  const ParityModel model = model_of(one_record);
  const TrainOptions options = testing::parity_options(Precision::kFp64, 1, kSteps);
  std::filesystem::path folder;
  testing::Run run;
  for (size_t i = 0; i < meshes.size(); ++i) {
    const auto ranks = world.make_communicator(parallel::make_mesh(meshes[i], world.size(), world.rank()));
    if (folder.empty()) folder = testing::shared_folder(world, *ranks, "positions");
    const int64_t stop_after = i + 1 < meshes.size() ? static_cast<int64_t>(i) + 1 : -1;
    testing::Run part = testing::train_parity(folder, model, options, meshes[i], ranks.get(), stop_after);
    run.outcomes.insert(run.outcomes.end(), part.outcomes.begin(), part.outcomes.end());
    ranks->barrier(parallel::all_axes(ranks->mesh()));
  }
  if (world.rank() != 0) return;
  const testing::PlainRun plain = testing::train_plainly(model, options);
  const std::string what = fmt::format("{} meshes, {}", meshes.size(), one_record ? "one record" : "packed");
  testing::compare_runs(plain.run, run, 1e-9, what);
  testing::compare_with_plain(plain, model, folder, kSteps, 1e-9, what);
  std::filesystem::remove_all(folder);
}

void check_runs(World& world, const std::vector<std::vector<MeshOptions>>& cases) {
  for (const auto& meshes : cases) {
    for (const bool one_record : {true, false}) check_run(world, meshes, one_record);
  }
}

TEST(Positions, TwoRanksTrainAsOne) {
  EXPECT_EQ(
      failures(run_ranks(
          2,
          [](World& world) {
            check_runs(world, {{mesh(1, 1, 2, 1, 1, 0)}, {mesh(1, 1, 2, 1, 1, 3)}, {mesh(1, 1, 1, 2, 1, 1)}});
          })),
      "");
}

TEST(Positions, FourRanksTrainAsOne) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 check_runs(world, {{mesh(1, 1, 4, 1, 1, 2)},
                                                    {mesh(1, 1, 2, 2, 1, 3)},
                                                    {mesh(2, 1, 2, 1, 1, 3)},
                                                    {mesh(2, 1, 1, 2, 1, 2)},
                                                    {mesh(1, 1, 2, 1, 2, 1, true)},
                                                    {mesh(1, 2, 1, 2, 1, 0)}});
                               })),
            "");
}

// A step each: the table of a ring is that of ulysses ranks, and of ranks that hold it whole.
TEST(Positions, CheckpointsGoOnWithAnotherMesh) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 check_runs(world, {{mesh(1, 1, 4, 1, 1, 0), mesh(1, 1, 1, 4, 1, 3),
                                                     mesh(4, 1, 1, 1, 1, 1)},
                                                    {mesh(4, 1, 1, 1, 1, 3), mesh(1, 1, 2, 2, 1, 1),
                                                     mesh(1, 1, 2, 1, 2, 2, true)}});
                               })),
            "");
}

constexpr int64_t kMore = testing::kMaxPositions + 9;

// Whole values and companions of the table, on the first rank, by way of a checkpoint.
std::map<std::string, at::Tensor> table_of(const CheckpointIndex& index, int64_t rows) {
  models::Model model = model_of(true, rows).build();
  model.parameters->materialize(at::kCPU, index.state.precision == "bf16" ? at::kBFloat16 : at::kDouble, 77);
  load_parameters(index, CheckpointParts::kEverything, *model.parameters);
  const parallel::Parameter& row = model.parameters->at(models::kPositionTable);
  std::map<std::string, at::Tensor> out = row.companions;
  out["value"] = row.value.detach();
  return out;
}

CheckpointIndex newest(const std::filesystem::path& folder) {
  return *CheckpointStore(folder / kCheckpointsFolder).newest_good();
}

// A run of 32 positions goes on with 41: saved at once, before another step moves anything.
void check_growth(World& world, const MeshOptions& mesh_options, Precision precision) {
  const auto ranks = world.make_communicator(parallel::make_mesh(mesh_options, world.size(), world.rank()));
  const auto folder = testing::shared_folder(world, *ranks, "growth");
  const TrainOptions options = testing::parity_options(precision, 0, 2);
  testing::train_parity(folder, model_of(true), options, mesh_options, ranks.get());
  const auto before = table_of(newest(folder), testing::kMaxPositions);

  models::Model model = model_of(true, kMore).build(ranks->mesh(), mesh_options);
  parallel::partition_parameters(*model.parameters, ranks->mesh(), mesh_options.zero);
  model.parameters->materialize(at::kCPU, scalar_type_of(precision), static_cast<uint64_t>(options.seed));
  const optim::AdamW moments(options.optimizer, *model.parameters);
  const CheckpointIndex index = newest(folder);
  load_parameters(index, CheckpointParts::kEverything, *model.parameters);
  RunState state = index.state;
  state.step += 1;
  state.model_config = model.config;
  CheckpointStore(folder / kCheckpointsFolder, {}, ranks.get()).save(state, *model.parameters);

  models::Model fresh = model_of(true, kMore).build();
  fresh.parameters->materialize(at::kCPU, scalar_type_of(precision), static_cast<uint64_t>(options.seed));
  const parallel::Parameter& of_new = fresh.parameters->at(models::kPositionTable);
  for (const auto& [part, grown] : table_of(newest(folder), kMore)) {
    require(grown.size(0) == kMore, part + ": another size");
    const int64_t old = testing::kMaxPositions;
    require(grown.narrow(0, 0, old).equal(before.at(part)), part + ": rows that were there have changed");
    const at::Tensor rest = grown.narrow(0, old, kMore - old);
    if (part == "value" || part == "master") {
      const at::Tensor& whole = part == "value" ? of_new.value : of_new.companions.at("master");
      require(rest.equal(whole.detach().narrow(0, old, kMore - old)), part + ": other new rows");
    } else {
      require(!rest.ne(0).any().item<bool>(), part + ": moments of new rows");
    }
  }
  ranks->barrier(parallel::all_axes(ranks->mesh()));
  if (world.rank() == 0) std::filesystem::remove_all(folder);
}

TEST(Positions, TablesGrow) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 check_growth(world, mesh(4, 1, 1, 1, 1, 0), Precision::kBf16);
                                 check_growth(world, mesh(2, 1, 2, 1, 1, 3), Precision::kBf16);
                                 check_growth(world, mesh(1, 1, 2, 2, 1, 0), Precision::kFp64);
                                 check_growth(world, mesh(2, 1, 1, 2, 1, 1), Precision::kBf16);
                               })),
            "");
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Positions, RunsGoOnWithMoreAndNotWithFewer) {
  const axial::testing::TemporaryFolder own;
  const TrainOptions options = testing::parity_options(Precision::kFp64, 0, 2);
  TrainOptions longer = options;
  longer.steps = 3;
  testing::train_parity(own / "run", model_of(true), options, {}, nullptr);
  EXPECT_EQ(testing::train_parity(own / "run", model_of(true, kMore), longer, {}, nullptr).result.step, 3);
  EXPECT_EQ(newest(own / "run").parameters.at(models::kPositionTable).shape[0], kMore);
  EXPECT_EQ(newest(own / "run").state.model_config.at("max_positions"), kMore);
  EXPECT_THAT(error_of([&] { testing::train_parity(own / "run", model_of(true), longer, {}, nullptr); }),
              HasSubstr("'max_positions' of"));
  EXPECT_THAT(error_of([&] { table_of(newest(own / "run"), 32); }),
              HasSubstr("expected [32, 24] or fewer rows, got [41, 24]"));
}

TEST(Positions, RunsStartFromShorterTables) {
  const axial::testing::TemporaryFolder own;
  testing::train_parity(own / "run", model_of(true), testing::parity_options(Precision::kFp64, 0, 1), {},
                        nullptr);
  const models::ModelRegistry registry = models::all_models();
  const models::Model trained = model_of(true).build();
  models::Model model = model_of(true, kMore).build(), fresh = model_of(true, kMore).build();
  EXPECT_THAT(error_of([&] { check_can_start_from(model, trained, registry); }),
              HasSubstr("expected [32, 24] or fewer rows, got [41, 24]"));
  check_can_start_from(trained, model, registry);
  for (const models::Model* each : {&model, &fresh}) each->parameters->materialize(at::kCPU, at::kDouble, 5);
  const CheckpointIndex index = newest(own / "run");
  parallel::fill_parameters(*model.parameters, parameter_readers(index));
  const auto of = [](const models::Model& m) {
    return m.parameters->at(models::kPositionTable).value.detach();
  };
  EXPECT_TRUE(of(model).narrow(0, 0, 32).equal(table_of(index, 32).at("value")));
  EXPECT_TRUE(of(model).narrow(0, 32, 9).equal(of(fresh).narrow(0, 32, 9)));
}

}  // namespace
}  // namespace axial::train
