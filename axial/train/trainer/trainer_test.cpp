// SPDX-License-Identifier: Apache-2.0
// Recompute, accumulation, overflow, losses that are not finite, start from trained weights, Meta, options.
#include "axial/train/trainer/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/load/load.h"
#include "axial/train/metrics/metrics_log.h"
#include "axial/train/testing/tiny_run.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using ::testing::AllOf;
using testing::Case;
using testing::error_of;
using testing::expect_equal;
using ::testing::HasSubstr;
using testing::options_for;
using testing::TinySource;
using testing::train;
using testing::Trained;

TEST(TrainerTest, RecomputeChangesNothing) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const TemporaryFolder folder;
    Case setup{options_for(precision)};
    setup.config["layers"] = 3;
    const Trained keep = train(folder / "keep", setup);
    setup.options.recompute_group = 2;
    const Trained recompute = train(folder / "recompute", setup);
    EXPECT_EQ(keep.losses, recompute.losses);
    expect_equal(keep.weights, recompute.weights);
  }
}

TEST(TrainerTest, AccumulationIsTheMeanOverTheWholeBatch) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp64)};
  setup.config["dropout"] = 0.0;
  const Trained split = train(folder / "split", setup);
  setup.options.micro_batch = 5;
  const Trained whole = train(folder / "whole", setup);
  for (size_t i = 0; i < split.losses.size(); ++i) EXPECT_NEAR(split.losses[i], whole.losses[i], 1e-10);
}

TEST(TrainerTest, OverfitsASmallSet) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp32)};
  setup.config = {{"width", 32}};
  setup.rows = 2;
  setup.options.steps = 300;
  setup.options.batch = 2;
  setup.options.validate_every = 0;
  setup.options.checkpoint_every = 0;
  setup.options.optimizer.weight_decay = 0;
  const Trained run = train(folder / "run", setup);
  EXPECT_GT(run.losses.front(), 2.0);  // ln 11 = 2.4
  EXPECT_LT(run.result.last_loss, 0.1);
  EXPECT_TRUE(fs::exists(folder / "run/loss.svg"));
}

TEST(TrainerTest, Fp16OverflowSkipsAndLowersTheScale) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp16)};
  setup.options.loss_scale.initial = 16777216.0;
  setup.config = {{"gain", 16.0}};
  const Trained run = train(folder / "run", setup);
  ASSERT_GT(run.result.skipped_steps, 0);
  EXPECT_LT(run.result.skipped_steps, 12);
  EXPECT_EQ(run.outcomes.front().kind, StepOutcome::Kind::kSkipped);
  EXPECT_EQ(run.outcomes[1].loss_scale, 8388608.0);
  EXPECT_EQ(run.outcomes.back().kind, StepOutcome::Kind::kApplied);
  const auto rows = read_metrics(folder / "run/metrics.jsonl");
  EXPECT_EQ(rows.front().value("skipped"), 1.0);
  EXPECT_EQ(rows.front().value("loss_scale"), 16777216.0);
}

TEST(TrainerTest, LossThatIsNotFiniteStopsWithRecordsAndCheckpoint) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    const TemporaryFolder folder;
    Case setup{options_for(precision)};
    setup.options.loss_scale.initial = 4;  // fp16 first lowers the scale to 1 in vain
    setup.poison_step = 5;
    const std::string error = error_of<NotFiniteError>([&] { train(folder / "run", setup); });
    EXPECT_THAT(error, AllOf(HasSubstr(precision == Precision::kFp16 ? "step 8" : "step 6"), HasSubstr("nan"),
                             HasSubstr("record 0"), HasSubstr("checkpoints/step_00000004")));
    setup.poison_step = -1;
    const Trained resumed = train(folder / "run", setup);
    EXPECT_EQ(resumed.losses.size(), 8u);
    const Trained whole = train(folder / "whole", setup);
    expect_equal(whole.weights, resumed.weights);
  }
}

TEST(TrainerTest, StartsFromTrainedWeights) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kBf16)};
  const Trained run = train(folder / "run", setup);
  const LoadedModel trained =
      describe_model(folder / "run", testing::tiny_registry(), {std::nullopt, WhichCheckpoint::kLast});
  const TinySource source(7);
  const RunFolder run_folder(folder / "tuned");
  TrainerInputs inputs;
  inputs.model = testing::build_tiny(setup.config);
  inputs.training = &source;
  Trainer trainer(std::move(inputs), setup.options, run_folder);
  check_can_start_from(trained.model, trainer.model(), testing::tiny_registry());
  trainer.start_from(trained.weights);
  size_t i = 0;
  for (const auto& row : trainer.model().parameters->rows()) {
    EXPECT_TRUE(at::equal(row->value, run.weights[i++]));
    EXPECT_TRUE(at::equal(row->companions.at("master"), row->value.to(at::kFloat)));
  }
  EXPECT_THROW(
      check_can_start_from(testing::build_tiny({{"width", 4}}), trainer.model(), testing::tiny_registry()),
      ValueError);
}

TEST(TrainerTest, WholeStepRunsOnMeta) {
  for (const Precision precision : {Precision::kFp64, Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    for (const int64_t group : {0, 1, 2}) {
      TrainOptions options = options_for(precision);
      options.recompute_group = group;
      models::Model model = testing::build_tiny({{"width", 64}, {"layers", 3}});
      TrainingStep step(model, options, at::kMeta);
      const TinySource source(5);
      for (int64_t i = 0; i < 2; ++i) {
        const StepOutcome outcome = step.run({source.rows(0, 2), source.rows(2, 2), source.rows(4, 1)}, i);
        EXPECT_EQ(outcome.kind, StepOutcome::Kind::kApplied);
        EXPECT_EQ(outcome.loss, 1.0);
        EXPECT_EQ(outcome.weight, 55.0);
      }
      for (const auto& row : model.parameters->rows()) {
        EXPECT_TRUE(row->value.is_meta());
        EXPECT_TRUE(row->companions.at("exp_avg").is_meta());
        EXPECT_EQ(row->companions.at("exp_avg").sizes().vec(), row->spec.shape);
      }
    }
  }
}

TEST(TrainOptionsTest, ImpossibleOptionsAreRefused) {
  const auto refused = [](const std::function<void(TrainOptions&)>& change) {
    TrainOptions options;
    change(options);
    return error_of([&] { options.validate(); });
  };
  EXPECT_THAT(refused([](auto& o) { o.steps = 0; }), HasSubstr("steps; expected at least 1, got 0"));
  EXPECT_THAT(refused([](auto& o) { o.micro_batch = 17; }), HasSubstr("micro_batch; expected at most"));
  EXPECT_THAT(refused([](auto& o) { o.clip_norm = -1; }), HasSubstr("clip_norm"));
  EXPECT_THAT(refused([](auto& o) { o.clip_norm = std::nan(""); }), HasSubstr("clip_norm"));
  EXPECT_EQ(refused([](auto&) {}), "no error");
}

}  // namespace
}  // namespace axial::train
