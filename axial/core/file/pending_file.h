// SPDX-License-Identifier: Apache-2.0
// A file that is being written and that nobody sees before it is whole. Behind AtomicWriter and NpyWriter.
#pragma once

#include <filesystem>

namespace axial {

/// Until commit() the file has no name at all where the file system allows that (O_TMPFILE), so that even a
/// kill leaves nothing behind; elsewhere a name beside the target that the destructor removes.
class PendingFile {
 public:
  /// `target` is a regular file or nothing yet, links followed. Throws IoError.
  explicit PendingFile(std::filesystem::path target);
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();

  /// Open for reading and writing; stays with this object.
  int descriptor() const { return fd_; }
  /// Sync and give the file its name, in place of what has it now. Throws IoError, and then leaves nothing.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool named_ = false;  // there is a file called temporary_
  int fd_ = -1;
};

}  // namespace axial
