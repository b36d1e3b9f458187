// SPDX-License-Identifier: Apache-2.0
// Training over ranks: the run of one rank again, with every ZeRO stage; stopped and gone on with another
// number of ranks; and what a failing rank leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/testing/compare_runs.h"
#include "axial/train/testing/tiny_run.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::World;
using testing::build_tiny;
using testing::TinySource;

constexpr int64_t kSteps = 6;

// 5 rows a step as micro-batches of 2: on 4 ranks one rank has two rows, three have one.
TrainOptions options_for(Precision precision) {
  TrainOptions options = testing::options_for(precision);
  options.steps = kSteps;
  options.validate_every = 3;
  options.checkpoint_every = 2;
  return options;
}

using testing::compare_runs;
using testing::Run;
using testing::shared_folder;

models::Model model_of_case() { return build_tiny(nlohmann::json{{"dropout", 0.0}}); }

TrainerInputs inputs_of(const TinySource& training, Communicator* ranks, int64_t zero) {
  TrainerInputs inputs;
  inputs.model = model_of_case();
  inputs.training = &training;
  inputs.tokenizer = {{"kind", "test"}};
  inputs.data = {{"rows", 7}};
  inputs.show_progress = false;
  inputs.ranks.communicator = ranks;
  inputs.ranks.options.zero = zero;
  return inputs;
}

// Train in `folder`, over the ranks or (null) alone; stop with a signal to the last rank after `stop_after`.
Run train(const std::filesystem::path& folder, const TrainOptions& options, Communicator* ranks, int64_t zero,
          int64_t stop_after = -1) {
  const TinySource training(7), validation(3);
  const bool first = ranks == nullptr || ranks->mesh().rank() == 0;
  const RunFolder run_folder = first ? RunFolder(folder) : RunFolder::of_first_rank(folder);
  Run run;
  TrainerInputs inputs = inputs_of(training, ranks, zero);
  inputs.validation = &validation;
  const bool last = ranks == nullptr || ranks->mesh().rank() + 1 == ranks->mesh().world_size();
  inputs.on_step = [&](int64_t step, const StepOutcome& outcome) {
    run.outcomes.push_back(outcome);
    if (last && step == stop_after) raise(SIGTERM);
  };
  Trainer trainer(std::move(inputs), options, run_folder);
  trainer.resume();
  run.result = trainer.run();
  return run;
}

void check_stages(World& world) {
  const auto ranks = world.make_communicator(
      parallel::Mesh({{"data", world.size()}, {"tensor", 1}}, world.size(), world.rank()));
  const axial::testing::TemporaryFolder own;
  for (const Precision precision : {Precision::kFp64, Precision::kBf16}) {
    const TrainOptions options = options_for(precision);
    const std::string dtype = precision == Precision::kFp64 ? "fp64" : "bf16";
    // Gradients of a bf16 model carry its roundings of each micro-batch; sums differ by few of them.
    const double tolerance = precision == Precision::kFp64 ? 1e-9 : 2e-2;
    const Run one = train(own / ("one_" + dtype), options, nullptr, 0);
    for (const int64_t zero : {0, 1, 2, 3}) {
      const std::string what = fmt::format("ZeRO {} {}", zero, dtype);
      const auto folder = shared_folder(world, *ranks, fmt::format("zero{}_{}", zero, dtype));
      const Run many = train(folder, options, ranks.get(), zero);
      compare_runs(one, many, tolerance, what);
      if (precision == Precision::kFp64) {
        testing::compare_checkpoints(model_of_case, own / ("one_" + dtype), folder, kSteps, tolerance, what);
      }
      ranks->barrier({"data"});
      if (world.rank() == 0) std::filesystem::remove_all(folder);
    }
  }
}

TEST(TrainerRanks, EveryZeroStageTrainsAsOneRank) { EXPECT_EQ(failures(run_ranks(2, check_stages)), ""); }

TEST(TrainerRanks, RanksWithoutRowsTakePart) { EXPECT_EQ(failures(run_ranks(6, check_stages)), ""); }

// One rank, then four with ZeRO 3, then four with ZeRO 1, then one: as if nothing had happened.
void check_reshards(World& world) {
  const auto ranks =
      world.make_communicator(parallel::Mesh({{"data", world.size()}}, world.size(), world.rank()));
  const axial::testing::TemporaryFolder own;
  const TrainOptions options = options_for(Precision::kFp64);
  const Run whole = train(own / "whole", options, nullptr, 0);
  const auto folder = shared_folder(world, *ranks, "reshard");
  const auto alone = [&](int64_t stop_after) {
    if (world.rank() == 0) train(folder, options, nullptr, 0, stop_after);
    ranks->barrier({"data"});
  };
  alone(1);
  const Run three = train(folder, options, ranks.get(), 3, 3);
  require(three.result.signal == SIGTERM && three.result.step == 3, "a signal to one rank stops all");
  train(folder, options, ranks.get(), 1, 4);
  alone(-1);
  testing::compare_checkpoints(model_of_case, own / "whole", folder, kSteps, 1e-9, "1 -> 4 -> 4 -> 1");
  ranks->barrier({"data"});
  if (world.rank() == 0) std::filesystem::remove_all(folder);
}

TEST(TrainerRanks, CheckpointsGoOnWithAnyNumberOfRanks) {
  EXPECT_EQ(failures(run_ranks(4, check_reshards)), "");
}

// Bytes that a rank of two holds after a step, of a model of 320 elements: Rajbhandari et al., 2020, fig. 1.
struct HeldBytes {
  int64_t values = 0, master = 0, moments = 0;
  friend bool operator==(const HeldBytes&, const HeldBytes&) = default;
};

HeldBytes held_after_a_step(World& world, Communicator* ranks, Precision precision, int64_t zero) {
  TrainOptions options = options_for(precision);
  options.steps = 1;
  options.validate_every = options.checkpoint_every = 0;
  const auto folder =
      shared_folder(world, *ranks, fmt::format("held{}_{}", zero, static_cast<int>(precision)));
  HeldBytes held;
  {
    const TinySource training(7);
    const RunFolder run_folder = world.rank() == 0 ? RunFolder(folder) : RunFolder::of_first_rank(folder);
    Trainer trainer(inputs_of(training, ranks, zero), options, run_folder);
    trainer.run();
    const auto bytes = [](const at::Tensor& t) {
      return t.defined() ? static_cast<int64_t>(std::min(t.nbytes(), t.storage().nbytes())) : 0;
    };
    for (const auto& row : trainer.model().parameters->rows()) {
      held.values += bytes(row->value) + bytes(row->shard);
      held.master += row->companions.contains("master") ? bytes(row->companions.at("master")) : 0;
      held.moments += bytes(row->companions.at("exp_avg")) + bytes(row->companions.at("exp_avg_sq"));
    }
  }
  ranks->barrier({"data"});
  if (world.rank() == 0) std::filesystem::remove_all(folder);
  return held;
}

void check_bytes(World& world) {
  const auto ranks = world.make_communicator(parallel::Mesh({{"data", 2}}, 2, world.rank()));
  const std::vector<std::pair<Precision, std::vector<HeldBytes>>> expected = {
      {Precision::kFp32, {{1280, 0, 2560}, {1280, 0, 1280}, {1280, 0, 1280}, {640, 0, 1280}}},
      {Precision::kBf16, {{640, 1280, 2560}, {640, 640, 1280}, {640, 640, 1280}, {320, 640, 1280}}}};
  for (const auto& [precision, by_stage] : expected) {
    for (int64_t zero = 0; zero < 4; ++zero) {
      const HeldBytes held = held_after_a_step(world, ranks.get(), precision, zero);
      require(held == by_stage[static_cast<size_t>(zero)],
              fmt::format("ZeRO {}: {} bytes of values, {} of master copies, {} of moments", zero,
                          held.values, held.master, held.moments));
    }
  }
}

TEST(TrainerRanks, BytesOfStatesAreThoseOfZero) { EXPECT_EQ(failures(run_ranks(2, check_bytes)), ""); }

// What cannot be written is an error on every rank, and the checkpoints before it stay.
void check_full_disk(World& world) {
  const auto ranks =
      world.make_communicator(parallel::Mesh({{"data", world.size()}}, world.size(), world.rank()));
  TrainOptions options = options_for(Precision::kFp64);
  const auto folder = shared_folder(world, *ranks, "full");
  train(folder, options, ranks.get(), 2, 2);
  const auto checkpoints = folder / kCheckpointsFolder;
  if (world.rank() == 0) {  // a file where the next checkpoint's folder is to be made
    std::filesystem::rename(checkpoints, folder / "aside");
    std::ofstream(checkpoints) << "in the way";
  }
  ranks->barrier({"data"});
  const CheckpointStore store(checkpoints, {}, ranks.get());
  models::Model model = model_of_case();
  model.parameters->materialize(at::kCPU, at::kDouble, 1);
  RunState state;
  std::string said;
  try {
    CheckpointStore(checkpoints, {}, ranks.get()).save(state, *model.parameters);
  } catch (const IoError& error) {
    said = error.what();
  }
  require(said.find("could not be saved") != std::string::npos, "no error: " + said);
  ranks->barrier({"data"});
  if (world.rank() == 0) std::filesystem::remove_all(folder);
}

TEST(TrainerRanks, WhatCannotBeWrittenIsAnErrorOnEveryRank) {
  EXPECT_EQ(failures(run_ranks(3, check_full_disk)), "");
}

}  // namespace
}  // namespace axial::train
