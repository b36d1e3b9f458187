// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: exact lines, reading back, resume after a crash, refusal of damaged files.
#include "axial/train/metrics/metrics_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;

class MetricsLogTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("axial_metrics_{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path path() const { return folder_ / "metrics.jsonl"; }
  fs::path folder_;
};

MetricsRow row(int64_t step, double loss) { return {step, "train", {{"loss", loss}}}; }

TEST_F(MetricsLogTest, WritesStrictJsonAtOnce) {
  MetricsLog log = MetricsLog::create(path());
  log.write({7, "train", {{"loss", 3.5}, {"tokens", 1638400}, {"rate", 1.0 / 3}}});
  EXPECT_EQ(read_file(path()),
            "{\"step\":7,\"kind\":\"train\",\"loss\":3.5,\"tokens\":1638400,\"rate\":0.3333333333333333}\n");
  log.write({8, "validation", {{"loss", std::nan("")}, {"norm", std::numeric_limits<double>::infinity()}}});
  const auto rows = read_metrics(path());
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].value("rate"), 1.0 / 3) << "every double survives the text";
  EXPECT_EQ(rows[1].kind, "validation");
  EXPECT_TRUE(std::isnan(rows[1].value("loss")));
  EXPECT_TRUE(std::isnan(rows[1].value("norm")));
  EXPECT_TRUE(std::isnan(rows[1].value("no such name")));
}

TEST_F(MetricsLogTest, ResumeDropsLaterStepsAndACutLine) {
  {
    MetricsLog log = MetricsLog::create(path());
    for (int64_t step = 1; step <= 5; ++step) log.write(row(step, 4.0 - 0.1 * static_cast<double>(step)));
  }
  AppendFile(path()).append("{\"step\":6,\"ki");
  EXPECT_EQ(read_metrics(path()).size(), 5u);
  const std::string before = read_file(path());
  {
    MetricsLog log = MetricsLog::resume(path(), 3);
    log.write(row(4, 1.0));
    log.sync();
  }
  const auto rows = read_metrics(path());
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[2].value("loss"), 4.0 - 0.1 * 3.0);
  EXPECT_EQ(rows[3].value("loss"), 1.0);
  const std::string after = read_file(path());
  const size_t kept = after.rfind("{\"step\":4");
  EXPECT_EQ(after.substr(0, kept), before.substr(0, kept)) << "kept lines stay byte for byte";
}

TEST_F(MetricsLogTest, ResumeWithoutAFileStartsEmpty) {
  MetricsLog::resume(path(), 10).write(row(11, 2.0));
  EXPECT_EQ(read_metrics(path()).size(), 1u);
}

TEST_F(MetricsLogTest, BadNamesAreRefusedAndDamageIsSetAside) {
  MetricsLog log = MetricsLog::create(path());
  EXPECT_THROW(log.write({1, "train", {{"step", 1.0}}}), ValueError);
  EXPECT_THROW(log.write({1, "train", {{"a", 1.0}, {"a", 2.0}}}), ValueError);
  EXPECT_THROW(log.write({1, "train", {{"", 1.0}}}), ValueError);
  EXPECT_EQ(read_file(path()), "") << "a refused row leaves nothing behind";
  log.write(row(1, 1.0));
  AppendFile(path()).append("not json\n");
  try {
    read_metrics(path());
    FAIL() << "a damaged line was read";
  } catch (const ValueError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("metrics.jsonl:2"));
  }
  MetricsLog::resume(path(), 1).write(row(2, 0.5));
  EXPECT_EQ(read_metrics(path()).size(), 2u) << "the line before the damage and the new one";
  EXPECT_THAT(read_file(path().string() + ".damaged"), testing::HasSubstr("not json"));
  EXPECT_THROW(MetricsLog::create(folder_ / "missing" / "metrics.jsonl"), IoError);
}

}  // namespace
}  // namespace axial::train
