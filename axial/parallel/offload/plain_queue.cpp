// SPDX-License-Identifier: Apache-2.0
// Reads and writes by pread and pwrite, one after the other.
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "axial/parallel/offload/file_queue.h"

namespace axial::parallel::detail {

namespace {

class PlainQueue final : public FileQueue {
 public:
  PlainQueue(int descriptor, size_t depth) : fd_(descriptor), ended_(depth) {}

  void start(size_t index, bool writes, int64_t offset, std::byte* data, int64_t bytes) override {
    Transferred& t = ended_[index];
    t = {};
    while (t.bytes < bytes) {
      const auto left = static_cast<size_t>(bytes - t.bytes);
      const ssize_t got = writes ? ::pwrite(fd_, data + t.bytes, left, offset + t.bytes)
                                 : ::pread(fd_, data + t.bytes, left, offset + t.bytes);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) t.error = errno;
      if (got <= 0) return;
      t.bytes += got;
    }
  }
  Transferred wait(size_t index) override { return ended_[index]; }
  const char* name() const override { return "pread and pwrite"; }

 private:
  int fd_;
  std::vector<Transferred> ended_;
};

}  // namespace

std::unique_ptr<FileQueue> make_plain_queue(int descriptor, size_t depth) {
  return std::make_unique<PlainQueue>(descriptor, depth);
}

}  // namespace axial::parallel::detail
