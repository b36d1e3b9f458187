// SPDX-License-Identifier: Apache-2.0
// POSIX calls of append_file.h.
#include "axial/train/metrics/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::train {
namespace {

[[noreturn]] void io_fail(std::string_view what, const std::filesystem::path& path) {
  const int error = errno;
  fail<IoError>("metrics", "cannot {} '{}': {}", what, path.string(), std::strerror(error));
}

}  // namespace

AppendFile::AppendFile(std::filesystem::path path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) io_fail("open", path_);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

AppendFile& AppendFile::operator=(AppendFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) io_fail("append to", path_);
    bytes.remove_prefix(static_cast<size_t>(done));
  }
}

void AppendFile::sync() {
  if (::fsync(fd_) != 0) io_fail("fsync", path_);
}

}  // namespace axial::train
