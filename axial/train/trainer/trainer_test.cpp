// SPDX-License-Identifier: Apache-2.0
// Resume is the uninterrupted run bit for bit; recompute, accumulation, overflow, signals, broken data, Meta.
#include "axial/train/trainer/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <fstream>

#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/load/load.h"
#include "axial/train/metrics/metrics_log.h"
#include "axial/train/testing/tiny_model.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TinySource;

TrainOptions options_for(Precision precision) {
  TrainOptions options;
  options.steps = 12;
  options.batch = 5;
  options.micro_batch = 2;  // 2 + 2 + 1
  options.precision = precision;
  options.seed = 3;
  options.threads = 1;  // threads would only wait for each other in a model this small
  options.validate_every = 4;
  options.checkpoint_every = 4;
  options.log_every = 1;
  options.optimizer.learning_rate = 1e-2;
  options.schedule.warmup_steps = 2;
  return options;
}

struct Trained {
  std::vector<double> losses;
  std::vector<StepOutcome> outcomes;
  TrainResult result;
  std::vector<at::Tensor> weights;
  bool resumed = false;
};

struct Case {
  TrainOptions options;
  nlohmann::json config = {{"dropout", 0.2}};
  std::function<void(int64_t)> on_step = nullptr;
  int64_t rows = 7;
  int64_t poison_step = -1;  ///< after it a weight becomes NaN
};

Trained train(const fs::path& folder, const Case& setup) {
  const TinySource training(setup.rows);
  const TinySource validation(3);
  const RunFolder run_folder(folder);
  Trained run;
  TrainerInputs inputs;
  inputs.model = testing::build_tiny(setup.config);
  inputs.training = &training;
  inputs.validation = &validation;
  inputs.tokenizer = {{"kind", "test"}};
  inputs.data = {{"rows", setup.rows}};
  inputs.show_progress = false;
  Trainer* running = nullptr;
  inputs.on_step = [&](int64_t step, const StepOutcome& outcome) {
    const at::NoGradGuard no_grad;
    if (step == setup.poison_step) running->model().parameters->at("out").value[0][0] = NAN;
    run.losses.push_back(outcome.loss);
    run.outcomes.push_back(outcome);
    if (setup.on_step) setup.on_step(step);
  };
  Trainer trainer(std::move(inputs), setup.options, run_folder);
  running = &trainer;
  run.resumed = trainer.resume();
  run.result = trainer.run();
  for (const auto& row : trainer.model().parameters->rows())
    run.weights.push_back(row->value.detach().clone());
  return run;
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << i;
}

template <class E = Error>
std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

TEST(TrainerTest, ResumeIsTheUninterruptedRunBitForBit) {
  for (const Precision precision : {Precision::kFp64, Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    const TemporaryFolder folder;
    Case setup{options_for(precision)};
    const Trained whole = train(folder / "whole", setup);
    ASSERT_EQ(whole.losses.size(), 12u);
    // A signal in step 6, between checkpoints; then from the same folder to the end.
    Case stopped = setup;
    stopped.on_step = [](int64_t step) {
      if (step == 6) std::raise(SIGTERM);
    };
    const Trained first = train(folder / "parts", stopped);
    EXPECT_EQ(first.result.signal, SIGTERM);
    EXPECT_EQ(first.result.step, 6);
    const Trained second = train(folder / "parts", setup);
    EXPECT_TRUE(second.resumed);
    EXPECT_EQ(second.result.signal, 0);
    ASSERT_EQ(second.losses.size(), 6u);
    for (size_t i = 0; i < 12; ++i) {
      const double other = i < 6 ? first.losses[i] : second.losses[i - 6];
      EXPECT_EQ(std::bit_cast<uint64_t>(whole.losses[i]), std::bit_cast<uint64_t>(other)) << i;
    }
    expect_equal(whole.weights, second.weights);
    EXPECT_EQ(whole.result.validation->loss, second.result.validation->loss);
    EXPECT_EQ(whole.result.best_step, second.result.best_step);
    const auto rows = read_metrics(folder / "parts/metrics.jsonl");
    const auto expected = read_metrics(folder / "whole/metrics.jsonl");
    ASSERT_EQ(rows.size(), expected.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(rows[i].step, expected[i].step);
      EXPECT_EQ(rows[i].value("loss"), expected[i].value("loss"));
    }
  }
}

TEST(TrainerTest, DamagedCheckpointGoesBackAndEndsEqual) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp32)};
  const Trained whole = train(folder / "run", setup);
  const fs::path newest = folder / "run/checkpoints/step_00000012/model-00001.safetensors";
  fs::resize_file(newest, fs::file_size(newest) - 1);
  const Trained again = train(folder / "run", setup);
  EXPECT_TRUE(again.resumed);
  EXPECT_EQ(again.losses.size(), 4u);  // from step 8
  expect_equal(whole.weights, again.weights);
}

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

TEST(TrainerTest, FullDiskStopsAndKeepsWhatThereIs) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp32)};
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  setup.on_step = [&](int64_t step) {
    struct rlimit small = before;
    small.rlim_cur = 1000;
    if (step == 8) ::setrlimit(RLIMIT_FSIZE, &small);
  };
  setup.options.log_every = 100;  // metrics of steps 1 and 12 only: the limit is met by the checkpoint
  setup.options.validate_every = 0;
  const std::string error = error_of<IoError>([&] { train(folder / "run", setup); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(error, HasSubstr("step 8 could not be saved"));
  setup.on_step = nullptr;
  const Trained resumed = train(folder / "run", setup);
  EXPECT_EQ(resumed.losses.size(), 8u);  // from step 4
}

TEST(TrainerTest, ResumeRefusesAnotherModelDataSeedOrPrecision) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp32)};
  train(folder / "run", setup);
  Case other = setup;
  other.rows = 8;
  EXPECT_THAT(error_of([&] { train(folder / "run", other); }), HasSubstr("data.rows: 7, 8"));
  other = setup;
  other.config["gain"] = 2.0;
  EXPECT_THAT(error_of([&] { train(folder / "run", other); }), HasSubstr("gain: 1.0, 2.0"));
  other = setup;
  other.options.seed = 4;
  EXPECT_THAT(error_of([&] { train(folder / "run", other); }), HasSubstr("seed 3; expected 4"));
  other = setup;
  other.options.precision = Precision::kBf16;
  EXPECT_THAT(error_of([&] { train(folder / "run", other); }), HasSubstr("fp32; expected bf16"));
}

TEST(TrainerTest, FinishedRunGoesOnWithMoreSteps) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kFp32)};
  setup.options.schedule.kind = "constant";
  setup.options.steps = 6;
  train(folder / "run", setup);
  EXPECT_TRUE(train(folder / "run", setup).losses.empty());
  setup.options.steps = 12;
  const Trained longer = train(folder / "run", setup);
  EXPECT_EQ(longer.losses.size(), 6u);
  const Trained whole = train(folder / "whole", setup);
  expect_equal(whole.weights, longer.weights);
}

TEST(TrainerTest, StartsFromTrainedWeights) {
  const TemporaryFolder folder;
  Case setup{options_for(Precision::kBf16)};
  const Trained run = train(folder / "run", setup);
  const LoadedModel trained =
      load_model(folder / "run", testing::tiny_registry(), {std::nullopt, WhichCheckpoint::kLast});
  const TinySource source(7);
  const RunFolder run_folder(folder / "tuned");
  TrainerInputs inputs;
  inputs.model = testing::build_tiny(setup.config);
  inputs.training = &source;
  Trainer trainer(std::move(inputs), setup.options, run_folder);
  trainer.start_from(trained.model);
  size_t i = 0;
  for (const auto& row : trainer.model().parameters->rows()) {
    EXPECT_TRUE(at::equal(row->value, run.weights[i++]));
    EXPECT_TRUE(at::equal(row->companions.at("master"), row->value.to(at::kFloat)));
  }
  EXPECT_THROW(trainer.start_from(testing::build_tiny({{"width", 4}})), ValueError);
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
