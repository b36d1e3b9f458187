// SPDX-License-Identifier: Apache-2.0
// A streamed output file that appears whole or not at all. Used by commands for their results.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "axial/core/file/file.h"
#include "axial/core/file/pending_file.h"

namespace axial {

/// Writes a pending file; commit() makes it durable under its name, destruction without it leaves nothing.
/// A symbolic link stays and its target is replaced; a device, a pipe or a name of an open descriptor
/// (/dev/stdout) is written directly.
class AtomicWriter {
 public:
  /// Throws IoError as output_target, and when the file cannot be created or the target not opened.
  explicit AtomicWriter(std::filesystem::path path);
  AtomicWriter(const AtomicWriter&) = delete;
  AtomicWriter& operator=(const AtomicWriter&) = delete;
  ~AtomicWriter();

  void write(std::string_view text) { writer_->write(text); }
  /// Sync and, unless written directly, rename. Call once.
  void commit();

 private:
  OutputTarget target_;
  std::unique_ptr<PendingFile> pending_;  // null when written directly
  std::unique_ptr<FileWriter> writer_;
};

}  // namespace axial
