// SPDX-License-Identifier: Apache-2.0
// Places in a file without a name. Pieces pass through a ring of page-aligned buffers, where they are hashed.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/offload/backing.h"
#include "axial/parallel/offload/file_queue.h"

namespace axial::parallel::detail {

namespace {

constexpr const char* kOp = "offload";
constexpr size_t kDepth = 4;  // pieces under way: enough to keep a disk busy

class UnnamedFile {
 public:
  UnnamedFile(const std::filesystem::path& folder, bool direct) : folder_(folder), is_direct_(direct) {
    fd_ = open_one(direct ? O_DIRECT : 0);
    if (fd_ < 0 && direct && errno == EINVAL) {  // not on this file system
      is_direct_ = false;
      fd_ = open_one(0);
    }
    if (fd_ < 0) {
      fail<IoError>(kOp, "file in the folder '{}'; expected to make one, got: {}", folder.string(),
                    std::strerror(errno));
    }
  }
  UnnamedFile(const UnnamedFile&) = delete;
  UnnamedFile& operator=(const UnnamedFile&) = delete;
  ~UnnamedFile() { ::close(fd_); }

  int descriptor() const { return fd_; }
  bool is_direct() const { return is_direct_; }
  std::string name() const { return fmt::format("file in '{}'", folder_.string()); }

  void grow(int64_t from, int64_t bytes) const {
    if (bytes == 0) return;
    int failed = 0;
    do {
      failed = ::fallocate(fd_, 0, from, bytes) == 0 ? 0 : errno;
    } while (failed == EINTR);
    if (failed == 0 || failed == EOPNOTSUPP) return;  // the latter: a full disk is found by the write
    struct statvfs disk {};
    const bool known = ::fstatvfs(fd_, &disk) == 0;
    fail<IoError>(kOp, "room for the {}; expected {} bytes beside the {} it has, got {} free: {}", name(),
                  bytes, from, known ? disk.f_bavail * disk.f_frsize : 0, std::strerror(failed));
  }

 private:
  int open_one(int flags) const {
    flags |= O_RDWR | O_CLOEXEC;
    const int fd = ::open(folder_.c_str(), O_TMPFILE | flags, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
    std::string name = (folder_ / "axial-offload-XXXXXX").string();  // the name is gone at once
    const int named = ::mkostemp(name.data(), flags & ~O_RDWR);
    if (named >= 0) ::unlink(name.c_str());
    return named;
  }

  std::filesystem::path folder_;
  bool is_direct_;
  int fd_ = -1;
};

class FileBacking final : public Backing {
 public:
  FileBacking(const OffloadOptions& options, int64_t staging_bytes)
      : file_(options.folder, options.direct), staging_(staging_bytes) {
    if (options.calls != FileCalls::kPlain) queue_ = make_uring_queue(file_.descriptor(), kDepth);
    if (!queue_ && options.calls == FileCalls::kUring) {
      fail<UnsupportedError>(kOp, "io_uring; expected a system that permits it, got: {}",
                             std::strerror(errno));
    }
    if (!queue_) queue_ = make_plain_queue(file_.descriptor(), kDepth);
  }

  int64_t make_place(int64_t bytes) override {
    file_.grow(end_, whole_pages(bytes));
    return std::exchange(end_, end_ + whole_pages(bytes));
  }
  std::byte* memory(int64_t) const override { return nullptr; }

  void write(int64_t place, int64_t first, const std::byte* from, int64_t bytes,
             PieceHashes& hashes) override {
    run(true, place, first, bytes, [&](size_t index, int64_t at, int64_t count) {
      std::byte* piece = buffer(index);
      std::memcpy(piece, from + at, static_cast<size_t>(count));
      std::memset(piece + count, 0, static_cast<size_t>(whole_pages(count) - count));
      hashes[static_cast<size_t>((first + at) / kOffloadPiece)] = hash(piece, count);
    });
  }

  void read(int64_t place, int64_t first, std::byte* into, int64_t bytes,
            const PieceHashes& hashes) override {
    run(false, place, first, bytes, [&](size_t index, int64_t at, int64_t count) {
      const uint64_t expected = hashes[static_cast<size_t>((first + at) / kOffloadPiece)];
      const uint64_t found = hash(buffer(index), count);
      if (found != expected) {
        fail<IoError>(kOp, "the {} is damaged; expected {} bytes at {} with the hash {:016x}, got {:016x}",
                      file_.name(), count, place + first + at, expected, found);
      }
      std::memcpy(into + at, buffer(index), static_cast<size_t>(count));
    });
  }

  std::string description() const override {
    return fmt::format("{}, {}{}", file_.name(), queue_->name(),
                       file_.is_direct() ? ", past the page cache" : "");
  }
  int64_t host_bytes() const override { return static_cast<int64_t>(kDepth) * kOffloadPiece; }

 private:
  struct Piece {
    bool under_way = false;
    int64_t at = 0, bytes = 0;
  };

  std::byte* buffer(size_t index) const {
    return staging_.data() + index * static_cast<size_t>(kOffloadPiece);
  }
  static uint64_t hash(const std::byte* data, int64_t bytes) {
    return XXH3_64bits(data, static_cast<size_t>(bytes));
  }

  // Pieces in order, a ring of them under way: `use` fills the buffer of one before it is written, or takes
  // it after it was read. Whatever happens, none is under way afterwards.
  template <class Use>
  void run(bool writes, int64_t place, int64_t first, int64_t bytes, const Use& use) {
    Piece ring[kDepth];
    const auto finish = [&](size_t index) {
      ring[index].under_way = false;
      check(writes, place + first + ring[index].at, whole_pages(ring[index].bytes), queue_->wait(index));
      if (!writes) use(index, ring[index].at, ring[index].bytes);
    };
    const int64_t count = (bytes + kOffloadPiece - 1) / kOffloadPiece;
    const auto depth = static_cast<int64_t>(kDepth);
    try {
      for (int64_t p = 0; p < count + depth; ++p) {
        const auto index = static_cast<size_t>(p % depth);
        if (ring[index].under_way) finish(index);
        if (p >= count) continue;
        const int64_t at = p * kOffloadPiece;
        const int64_t size = std::min(kOffloadPiece, bytes - at);
        if (writes) use(index, at, size);
        ring[index] = {true, at, size};
        queue_->start(index, writes, place + first + at, buffer(index), whole_pages(size));
      }
    } catch (...) {
      for (size_t i = 0; i < kDepth; ++i) {
        if (ring[i].under_way) queue_->wait(i);
      }
      throw;
    }
  }

  void check(bool writes, int64_t offset, int64_t bytes, const Transferred& got) const {
    if (got.error == 0 && got.bytes == bytes) return;
    fail<IoError>(kOp, "{} of the {}; expected {} bytes at {}, got {}: {}", writes ? "write" : "read",
                  file_.name(), bytes, offset, got.bytes,
                  got.error != 0 ? std::strerror(got.error) : "the file ends there");
  }

  UnnamedFile file_;
  HostMemory staging_;
  std::unique_ptr<FileQueue> queue_;  // gone before the buffers
  int64_t end_ = 0;
};

class PlannedBacking final : public Backing {
 public:
  explicit PlannedBacking(OffloadTo to) : to_(to) {}
  int64_t make_place(int64_t) override { return next_++; }
  std::byte* memory(int64_t) const override { return nullptr; }
  void write(int64_t, int64_t, const std::byte*, int64_t, PieceHashes&) override {}
  void read(int64_t, int64_t, std::byte*, int64_t, const PieceHashes&) override {}
  std::string description() const override {
    return to_ == OffloadTo::kFile ? "a file" : "memory of the host";
  }
  int64_t host_bytes() const override {
    return to_ == OffloadTo::kFile ? static_cast<int64_t>(kDepth) * kOffloadPiece : 0;
  }

 private:
  OffloadTo to_;
  int64_t next_ = 0;
};

}  // namespace

std::unique_ptr<Backing> make_file_backing(const OffloadOptions& options) {
  return std::make_unique<FileBacking>(options, static_cast<int64_t>(kDepth) * kOffloadPiece);
}

std::unique_ptr<Backing> make_planned_backing(const OffloadOptions& options) {
  return std::make_unique<PlannedBacking>(options.to);
}

}  // namespace axial::parallel::detail
