// SPDX-License-Identifier: Apache-2.0
#include "axial/core/file/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

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

TEST_F(FileTest, LinksStayAndTheirTargetsAreReplaced) {
  fs::create_directories(dir_ / "far");
  write_file_atomically(dir_ / "far/real", "old");
  fs::create_symlink("far/real", dir_ / "link");
  fs::create_symlink("link", dir_ / "link_to_link");
  write_file_atomically(dir_ / "link_to_link", "new");
  EXPECT_TRUE(fs::is_symlink(dir_ / "link_to_link") && fs::is_symlink(dir_ / "link"));
  EXPECT_EQ(read_file(dir_ / "far/real"), "new");
  fs::create_symlink(dir_ / "far/later", dir_ / "dangling");
  write_file_atomically(dir_ / "dangling", "made");
  EXPECT_TRUE(fs::is_symlink(dir_ / "dangling"));
  EXPECT_EQ(read_file(dir_ / "far/later"), "made");
  fs::create_symlink("loop", dir_ / "loop");
  EXPECT_THROW(write_file_atomically(dir_ / "loop", "x"), IoError);
}

// A fifo stands for every special file: replacing one of /dev would hurt the whole machine.
TEST_F(FileTest, SpecialFilesAreWrittenInPlace) {
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  fs::create_symlink("fifo", dir_ / "link");
  const int reader = ::open((dir_ / "fifo").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  for (const char* name : {"fifo", "link"}) {
    AtomicWriter writer(dir_ / name);
    writer.write("through ");
    writer.write(name);
    writer.commit();
    char got[64];
    const ssize_t bytes = ::read(reader, got, sizeof(got));
    EXPECT_EQ(std::string_view(got, bytes > 0 ? static_cast<size_t>(bytes) : 0),
              std::string("through ") + name);
  }
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(dir_ / "fifo") && fs::is_symlink(dir_ / "link"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 2);
}

// What /dev/stdout is when a shell redirects it: output goes where the descriptor stands.
TEST_F(FileTest, NamesOfOpenDescriptorsAreWrittenWhereTheyStand) {
  FileWriter holder(dir_ / "redirected");
  holder.write("first ");
  const int fd = ::open((dir_ / "redirected").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  fs::create_symlink("/proc/self/fd/" + std::to_string(fd), dir_ / "stdout");
  write_file_atomically(dir_ / "stdout", "second ");
  write_file_atomically("/dev/fd/" + std::to_string(fd), "third");
  ::close(fd);
  EXPECT_EQ(read_file(dir_ / "redirected"), "first second third");
  EXPECT_TRUE(fs::is_symlink(dir_ / "stdout"));
  EXPECT_THROW(write_file_atomically("/dev/fd/987654", "x"), IoError);
}

TEST_F(FileTest, EmptyFileMapsToNothing) {
  write_file_atomically(dir_ / "e", "");
  EXPECT_TRUE(MappedFile(dir_ / "e").bytes().empty());
}

}  // namespace
}  // namespace axial
