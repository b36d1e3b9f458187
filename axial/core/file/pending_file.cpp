// SPDX-License-Identifier: Apache-2.0
// Unnamed files, and names beside the target where there are none.
#include "axial/core/file/pending_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"

namespace axial {
namespace {

constexpr mode_t kMode = 0644;

[[noreturn]] void io_fail(const char* what, const std::filesystem::path& path) {
  fail<IoError>("file", "cannot {} '{}': {}", what, path.string(), std::strerror(errno));
}

}  // namespace

PendingFile::PendingFile(std::filesystem::path target)
    : target_(std::move(target)), temporary_(fmt::format("{}.tmp-{}", target_.string(), ::getpid())) {
  const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
  fd_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode);
  if (fd_ >= 0) return;
  fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (fd_ < 0) io_fail("create", target_);
  named_ = true;
}

PendingFile::~PendingFile() {
  if (fd_ >= 0) ::close(fd_);
  if (named_) ::unlink(temporary_.c_str());
}

void PendingFile::commit() {
  if (::fsync(fd_) != 0) io_fail("fsync", target_);
  if (!named_) {
    const std::string open_file = fmt::format("/proc/self/fd/{}", fd_);
    ::unlink(temporary_.c_str());  // of a process that had this number before
    if (::linkat(AT_FDCWD, open_file.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      io_fail("create", target_);
    }
    named_ = true;
  }
  rename_durably(temporary_, target_);
  named_ = false;
}

}  // namespace axial
