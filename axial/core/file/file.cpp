// SPDX-License-Identifier: Apache-2.0
// POSIX implementation of file.h. Every system call that can fail is checked and named in the error.
#include "axial/core/file/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/core/file/atomic_writer.h"

namespace axial {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void io_fail(std::string_view what, const fs::path& path) {
  const int error = errno;
  fail<IoError>("file", "cannot {} '{}': {}", what, path.string(), std::strerror(error));
}

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

int open_for_reading(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) io_fail("open", path);
  return fd;
}

std::string hex(const XXH128_hash_t& h) { return fmt::format("{:016x}{:016x}", h.high64, h.low64); }

constexpr size_t kPiece = size_t{1} << 20;

template <class OnPiece>
void read_pieces(const fs::path& path, OnPiece&& on_piece) {
  const Descriptor file{open_for_reading(path)};
  std::vector<char> buffer(kPiece);
  for (;;) {
    const ssize_t got = ::read(file.fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) io_fail("read", path);
    if (got == 0) return;
    on_piece(std::string_view(buffer.data(), static_cast<size_t>(got)));
  }
}

}  // namespace

std::string read_file(const fs::path& path) {
  std::string content;
  read_pieces(path, [&](std::string_view piece) { content += piece; });
  return content;
}

void sync_to_disk(const fs::path& path) {
  const Descriptor file{open_for_reading(path)};
  if (::fsync(file.fd) != 0) io_fail("fsync", path);
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) io_fail(fmt::format("rename '{}' to", from.string()), to);
  sync_to_disk(to.parent_path().empty() ? fs::path(".") : to.parent_path());
}

OutputTarget output_target(const fs::path& path) {
  constexpr int kMostLinks = 40;  // as many as Linux follows
  const fs::path descriptors = fmt::format("/proc/{}/fd", ::getpid());
  OutputTarget out{path};
  for (int links = 0; links <= kMostLinks; ++links) {
    std::error_code error;
    const fs::path folder = out.path.has_parent_path() ? out.path.parent_path() : fs::path(".");
    if (fs::canonical(folder, error) == descriptors && !error) {
      out.in_place = true;
      out.descriptor = std::atoi(out.path.filename().c_str());
      return out;
    }
    const fs::file_status status = fs::symlink_status(out.path, error);
    if (status.type() != fs::file_type::symlink) {
      if (fs::is_directory(status) || !out.path.has_filename()) {
        fail<IoError>("file", "cannot write '{}': expected the name of a file, got {}", path.string(),
                      fs::is_directory(status) ? "a folder" : "none");
      }
      out.in_place = fs::exists(status) && !fs::is_regular_file(status);
      return out;
    }
    out.path = folder / fs::read_symlink(out.path);  // a target that is absolute replaces the folder
  }
  errno = ELOOP;
  io_fail("follow", path);
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicWriter writer(path);
  writer.write(content);
  writer.commit();
}

FileWriter::FileWriter(const fs::path& path)
    : FileWriter(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), path) {}

FileWriter::FileWriter(int descriptor, fs::path name) : path_(std::move(name)), fd_(descriptor) {
  if (fd_ < 0) io_fail("create", path_);
  XXH3_state_t* state = XXH3_createState();
  XXH3_128bits_reset(state);
  hash_ = state;
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
  XXH3_freeState(static_cast<XXH3_state_t*>(hash_));
}

void FileWriter::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  size_t left = bytes;
  while (left > 0) {
    const ssize_t done = ::write(fd_, at, left);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) io_fail("write", path_);
    at += done;
    left -= static_cast<size_t>(done);
  }
  XXH3_128bits_update(static_cast<XXH3_state_t*>(hash_), data, bytes);
  bytes_ += static_cast<int64_t>(bytes);
}

std::string FileWriter::finish() {
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != ENOTSUP) io_fail("fsync", path_);  // those: no disk
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) io_fail("close", path_);
  return hex(XXH3_128bits_digest(static_cast<XXH3_state_t*>(hash_)));
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file{open_for_reading(path)};
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) io_fail("stat", path);
  if (!S_ISREG(info.st_mode)) fail<IoError>("file", "cannot map '{}': not a regular file", path.string());
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) io_fail("map", path);
  data_ = data;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, size_);
}

std::string hash_bytes(std::span<const std::byte> bytes) {
  return hex(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string hash_file(const fs::path& path, const std::function<void(int64_t)>& on_bytes) {
  XXH3_state_t* state = XXH3_createState();
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> owner(state, XXH3_freeState);
  XXH3_128bits_reset(state);
  read_pieces(path, [&](std::string_view piece) {
    XXH3_128bits_update(state, piece.data(), piece.size());
    if (on_bytes) on_bytes(static_cast<int64_t>(piece.size()));
  });
  return hex(XXH3_128bits_digest(state));
}

}  // namespace axial
