// SPDX-License-Identifier: Apache-2.0
// Progress lines under a clock of our own: rates, intervals, terminal rewriting, resume, log messages.
#include "axial/core/progress/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/core/log/log.h"

namespace axial {
namespace {

using testing::HasSubstr;
using testing::Not;

class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { stream_ = std::tmpfile(); }
  void TearDown() override { std::fclose(stream_); }
  ProgressOptions options(ProgressStyle style, int64_t total) {
    ProgressOptions o;
    o.label = "train";
    o.unit = "steps";
    o.total = total;
    o.style = style;
    o.stream = stream_;
    o.clock = [this] { return time_; };
    return o;
  }
  std::string written() {
    std::fflush(stream_);
    std::string text(static_cast<size_t>(std::ftell(stream_)), '\0');
    std::rewind(stream_);
    EXPECT_EQ(std::fread(text.data(), 1, text.size(), stream_), text.size());
    return text;
  }
  std::FILE* stream_ = nullptr;
  double time_ = 100.0;
};

TEST_F(ProgressTest, PlainLinesComeAtTheInterval) {
  Progress progress(options(ProgressStyle::kPlain, 1000));
  for (int step = 1; step <= 12; ++step) {
    time_ += 1.0;
    progress.update(step * 10, "loss 3.50");
  }
  progress.finish("loss 3.40");
  EXPECT_EQ(written(),
            "train: 50/1,000 steps (5%), 10.0/s, loss 3.50, 5.0s so far, 1:35 to go\n"
            "train: 100/1,000 steps (10%), 10.0/s, loss 3.50, 0:10 so far, 1:30 to go\n"
            "train: 120/1,000 steps (12%), 10.0/s, loss 3.40, took 0:12\n");
}

TEST_F(ProgressTest, AJobThatEndsEarlyLeavesNoLine) {
  auto o = options(ProgressStyle::kTerminal, 100);
  o.quiet_s = 5;
  {
    Progress quick(o);
    time_ += 4.9;
    quick.update(99);
    quick.finish();
  }
  Progress slow(o);
  time_ += 4.0;
  slow.update(40);
  EXPECT_EQ(std::ftell(stream_), 0);
  time_ += 2.0;
  slow.update(60);
  EXPECT_THAT(written(), HasSubstr("60/100 steps (60%)"));
}

TEST_F(ProgressTest, TheRateLeavesOutWhatWasDoneBefore) {
  auto o = options(ProgressStyle::kQuiet, 1000);
  o.start = 900;
  Progress progress(o);
  time_ += 10;
  progress.advance(20);
  EXPECT_EQ(progress.done(), 920);
  EXPECT_DOUBLE_EQ(progress.rate(), 2.0);
  EXPECT_DOUBLE_EQ(progress.seconds_left(), 40.0);
  EXPECT_EQ(written(), "");
}

TEST_F(ProgressTest, TheRateFollowsAChangeOfSpeed) {
  Progress progress(options(ProgressStyle::kQuiet, 0));
  int64_t done = 0;
  for (int i = 0; i < 100; ++i) time_ += 1, progress.update(done += 100);
  for (int i = 0; i < 30; ++i) time_ += 1, progress.update(done += 10);
  EXPECT_NEAR(progress.rate(), 10.0, 1e-9);
  EXPECT_LT(progress.seconds_left(), 0.0) << "no total, so no time left";
}

TEST_F(ProgressTest, ATerminalLineIsRewrittenAndCut) {
  Progress progress(options(ProgressStyle::kTerminal, 100));
  time_ += 1;
  progress.update(50, std::string(200, 'x'));
  time_ += 1;
  progress.finish();
  const std::string text = written();
  EXPECT_THAT(text, HasSubstr("\r\033[Ktrain: [##########..........] 50/100 steps (50%), 50.0/s, xxx"));
  EXPECT_THAT(text, HasSubstr("\r\033[Ktrain: 50/100 steps (50%), 25.0/s, took 2.0s\n"));
  EXPECT_LE(text.find('\r', 1), 4 + 79u) << "no wider than an 80 column terminal";
}

TEST_F(ProgressTest, AnUnfinishedTerminalLineIsClosed) {
  {
    Progress progress(options(ProgressStyle::kTerminal, 100));
    time_ += 1;
    progress.update(1);
  }
  const std::string text = written();
  EXPECT_EQ(text.back(), '\n');
  EXPECT_THAT(text, Not(HasSubstr("took")));
}

TEST_F(ProgressTest, AMessageClearsTheLineFirst) {
  Progress progress(options(ProgressStyle::kTerminal, 100));
  time_ += 1;
  progress.update(1);
  log()->warn("(expected by a test) a message between two redraws");
  const std::string text = written();
  EXPECT_EQ(text.substr(text.size() - 4), "\r\033[K");
}

TEST_F(ProgressTest, ManyThreadsLoseNoCount) {
  Progress progress(options(ProgressStyle::kPlain, 4000));
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) progress.advance(1);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(progress.done(), 4000);
}

TEST_F(ProgressTest, BadOptionsAreRefused) {
  auto o = options(ProgressStyle::kPlain, -1);
  EXPECT_THROW(Progress{o}, ValueError);
}

}  // namespace
}  // namespace axial
