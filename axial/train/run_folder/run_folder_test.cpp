// SPDX-License-Identifier: Apache-2.0
// A run folder is one run's, and no other model's.
#include "axial/train/run_folder/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "axial/core/check/check.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(RunFolderTest, OnlyOneTrainingAtATime) {
  const TemporaryFolder folder;
  const RunFolder first(folder / "run");
  EXPECT_FALSE(first.holds_a_run());
  EXPECT_THROW(RunFolder(folder / "run"), ValueError);
  first.save_recipe("train: {}\n");
  EXPECT_TRUE(first.holds_a_run());
  std::ofstream(folder / "run/notes.txt") << "mine";
  first.erase_run();
  EXPECT_FALSE(first.holds_a_run());
  EXPECT_TRUE(fs::exists(folder / "run/notes.txt"));
  EXPECT_THROW(RunFolder("/proc/no/such"), IoError);
}

TEST(RunFolderTest, NoRunIsMixedWithAnExport) {
  const TemporaryFolder folder;
  const fs::path hf = folder / "hf";
  fs::create_directories(hf);
  std::ofstream(hf / "config.json") << "{}";
  try {
    const RunFolder refused(hf);
    FAIL();
  } catch (const ValueError& e) {
    EXPECT_THAT(e.what(),
                AllOf(HasSubstr("Hugging Face"), HasSubstr("config.json"), HasSubstr("new folder")));
  }
  EXPECT_FALSE(fs::exists(hf / ".lock"));
  std::ofstream(hf / "recipe.yaml") << "train: {}\n";  // a run that someone put a config.json into goes on
  EXPECT_TRUE(RunFolder(hf).holds_a_run());
}

}  // namespace
}  // namespace axial::train
