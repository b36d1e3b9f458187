// SPDX-License-Identifier: Apache-2.0
// Resume is the uninterrupted run bit for bit, after signals, damage and a full disk; another run is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <csignal>

#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/metrics/metrics_log.h"
#include "axial/train/testing/tiny_run.h"
#include "axial/train/trainer/trainer.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using testing::Case;
using testing::error_of;
using testing::expect_equal;
using ::testing::HasSubstr;
using testing::options_for;
using testing::train;
using testing::Trained;

TEST(ResumeTest, ResumeIsTheUninterruptedRunBitForBit) {
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

TEST(ResumeTest, DamagedCheckpointGoesBackAndEndsEqual) {
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

TEST(ResumeTest, FullDiskStopsAndKeepsWhatThereIs) {
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

TEST(ResumeTest, ResumeRefusesAnotherModelDataSeedOrPrecision) {
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

TEST(ResumeTest, FinishedRunGoesOnWithMoreSteps) {
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

}  // namespace
}  // namespace axial::train
