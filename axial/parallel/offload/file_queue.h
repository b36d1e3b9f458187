// SPDX-License-Identifier: Apache-2.0
// Reads and writes of a file that are under way, told by their place in a ring. Used by file_backing.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace axial::parallel::detail {

/// A read or write that has ended.
struct Transferred {
  int64_t bytes = 0;  ///< fewer than asked for: the end of the file, or an error
  int error = 0;      ///< errno
};

/// For one thread.
class FileQueue {
 public:
  virtual ~FileQueue() = default;
  virtual void start(size_t index, bool writes, int64_t offset, std::byte* data, int64_t bytes) = 0;
  /// Of one that was started, once.
  virtual Transferred wait(size_t index) = 0;
  virtual const char* name() const = 0;
};

/// pread and pwrite, in start().
std::unique_ptr<FileQueue> make_plain_queue(int descriptor, size_t depth);
/// io_uring; null where the system does not permit it.
std::unique_ptr<FileQueue> make_uring_queue(int descriptor, size_t depth);

}  // namespace axial::parallel::detail
