// SPDX-License-Identifier: Apache-2.0
#include "axial/core/file/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/core/file/atomic_writer.h"

namespace axial {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  FileTest() { fs::create_directories(dir_); }
  ~FileTest() override { fs::remove_all(dir_); }
  fs::path dir_ = fs::temp_directory_path() /
                  ("axial_file_test_" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) +
                   std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
};

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNothingBeside) {
  write_file_atomically(dir_ / "a", "one");
  write_file_atomically(dir_ / "a", "two");
  EXPECT_EQ(read_file(dir_ / "a"), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 1);
}

TEST_F(FileTest, HashesAgreeAndSeeOneBit) {
  std::string text(3'000'000, 'x');
  FileWriter writer(dir_ / "h");
  writer.write(text);
  const std::string hash = writer.finish();
  EXPECT_EQ(hash, hash_file(dir_ / "h"));
  EXPECT_EQ(hash, hash_bytes(MappedFile(dir_ / "h").bytes()));
  text[1'234'567] ^= 1;
  EXPECT_NE(hash, hash_bytes(std::as_bytes(std::span(text))));
}

TEST_F(FileTest, ErrorsNameThePathAndTheReason) {
  try {
    read_file(dir_ / "missing");
    FAIL();
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("missing"), testing::HasSubstr("No such file")));
  }
  EXPECT_THROW(MappedFile{dir_}, IoError);
  EXPECT_THROW(write_file_atomically("/dev/full/x", "y"), IoError);
  FileWriter full("/dev/full");
  EXPECT_THROW(full.write("y"), IoError);
}

TEST_F(FileTest, StreamedFileAppearsWholeOrNotAtAll) {
  {
    AtomicWriter abandoned(dir_ / "s");
    abandoned.write("half");
  }
  EXPECT_TRUE(fs::is_empty(dir_));
  AtomicWriter writer(dir_ / "s");
  writer.write("one ");
  writer.write("two");
  EXPECT_FALSE(fs::exists(dir_ / "s"));
  writer.commit();
  EXPECT_EQ(read_file(dir_ / "s"), "one two");
  EXPECT_THROW(AtomicWriter(dir_ / "none" / "s"), IoError);
}

TEST_F(FileTest, EmptyFileMapsToNothing) {
  write_file_atomically(dir_ / "e", "");
  EXPECT_TRUE(MappedFile(dir_ / "e").bytes().empty());
}

}  // namespace
}  // namespace axial
