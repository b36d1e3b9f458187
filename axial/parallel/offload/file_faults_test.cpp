// SPDX-License-Identifier: Apache-2.0
// What may happen to a file: every fault ends in an error that says what was expected and what was found.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "axial/core/check/check.h"
#include "axial/parallel/offload/offload_store.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const IoError& error) {
    return error.what();
  }
  return "";
}

class OffloadFile : public ::testing::TestWithParam<FileCalls> {
 protected:
  std::shared_ptr<OffloadStore> make() {
    OffloadOptions options;
    options.to = OffloadTo::kFile;
    options.folder = folder_.path();
    options.calls = GetParam();
    try {
      return OffloadStore::make(options);
    } catch (const UnsupportedError&) {
      return nullptr;
    }
  }

  // The unnamed file, as somebody else opens it.
  int open_behind_its_back() const {
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      const std::string target = fs::read_symlink(entry.path(), error).string();
      if (target.starts_with(folder_.path().string())) return ::open(entry.path().c_str(), O_RDWR);
    }
    return -1;
  }

  testing::TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Calls, OffloadFile, ::testing::Values(FileCalls::kUring, FileCalls::kPlain),
                         [](const auto& info) {
                           return info.param == FileCalls::kUring ? "Uring" : "Plain";
                         });

#define STORE_OR_SKIP(store) \
  const auto store = make(); \
  if (!(store)) GTEST_SKIP() << "io_uring is not permitted on this system";

TEST_P(OffloadFile, HasNoName) {
  STORE_OR_SKIP(store);
  Offloaded slot = store->put(at::ones({1000}));
  EXPECT_TRUE(at::equal(slot.take(), at::ones({1000})));
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_P(OffloadFile, OneFlippedBitIsFound) {
  STORE_OR_SKIP(store);
  Offloaded first = store->put(at::ones({500000})), second = store->put(at::ones({500000}));
  store->settle();
  const int fd = open_behind_its_back();
  ASSERT_GE(fd, 0);
  const int64_t at = 4 * 400000;  // in the second piece of the first
  float value = 0;
  ASSERT_EQ(::pread(fd, &value, 4, at), 4);
  reinterpret_cast<unsigned char&>(value) ^= 1;
  ASSERT_EQ(::pwrite(fd, &value, 4, at), 4);
  ::close(fd);
  EXPECT_THAT(error_of([&] { first.take(); }),
              AllOf(HasSubstr("file in '" + folder_.path().string() + "' is damaged"),
                    HasSubstr("expected 951424 bytes at 1048576 with the hash"), HasSubstr(", got ")));
  EXPECT_TRUE(at::equal(second.take(), at::ones({500000})));  // the others are whole
}

TEST_P(OffloadFile, ThatIsCutShort) {
  STORE_OR_SKIP(store);
  Offloaded slot = store->put(at::ones({500000}));
  store->settle();
  const int fd = open_behind_its_back();
  ASSERT_EQ(::ftruncate(fd, 4096), 0);
  ::close(fd);
  EXPECT_THAT(error_of([&] { slot.take(); }),
              AllOf(HasSubstr("read of the file in '" + folder_.path().string()),
                    HasSubstr("expected 1048576 bytes at 0, got 4096: the file ends there")));
}

// A full folder, by the limit that the system sets on files.
TEST_P(OffloadFile, AFullFolderIsFoundByPut) {
  STORE_OR_SKIP(store);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  Offloaded fits = store->put(at::ones({500000}));
  store->settle();
  rlimit small = before;
  small.rlim_cur = 3000000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error = error_of([&] { store->put(at::ones({500000})); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(error, AllOf(HasSubstr("room for the file in '" + folder_.path().string()),
                           HasSubstr("expected 2002944 bytes beside the 2002944 it has, got")));
  EXPECT_TRUE(at::equal(fits.take(), at::ones({500000})));
  Offloaded again = store->put(at::ones({500000}));  // and goes on when there is room
  EXPECT_TRUE(at::equal(again.take(), at::ones({500000})));
}

TEST(OffloadFiles, AFolderThatIsGoneOrNotOne) {
  const testing::TemporaryFolder folder;
  OffloadOptions options{.to = OffloadTo::kFile, .folder = folder / "gone"};
  EXPECT_THAT(error_of([&] { OffloadStore::make(options); }),
              AllOf(HasSubstr("file in the folder '" + options.folder.string()), HasSubstr("No such file")));
  options.folder = "/proc";  // nobody may make files there, root neither
  EXPECT_THAT(error_of([&] { OffloadStore::make(options); }),
              HasSubstr("'/proc'; expected to make one, got"));
}

// kill -9 leaves nothing: the file has never had a name.
TEST(OffloadFiles, AreGoneAfterAKill) {
  const testing::TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    const auto store = OffloadStore::make({.to = OffloadTo::kFile, .folder = folder.path()});
    Offloaded slot = store->put(at::ones({1000}));
    store->settle();
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace axial::parallel
