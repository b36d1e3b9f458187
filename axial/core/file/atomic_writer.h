// SPDX-License-Identifier: Apache-2.0
// A streamed output file that appears whole or not at all. Used by commands for their results.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "axial/core/file/file.h"

namespace axial {

/// Writes beside the target; commit() makes it durable under its name, destruction without it removes it.
class AtomicWriter {
 public:
  /// Throws IoError when the file beside the target cannot be created.
  explicit AtomicWriter(std::filesystem::path path);
  AtomicWriter(const AtomicWriter&) = delete;
  AtomicWriter& operator=(const AtomicWriter&) = delete;
  ~AtomicWriter();

  void write(std::string_view text) { writer_->write(text); }
  /// Sync and rename. Call once.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  std::unique_ptr<FileWriter> writer_;
};

}  // namespace axial
