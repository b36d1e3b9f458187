// SPDX-License-Identifier: Apache-2.0
// Streaming writer of NumPy's .npy (format 1.0): float32 rows whose number is not known before the end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>

#include "axial/core/file/pending_file.h"

namespace axial::train {

/// The file appears whole at the end or not at all.
class NpyWriter {
 public:
  NpyWriter(std::filesystem::path path, int64_t columns);
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;
  ~NpyWriter();

  /// Append one row; throws ValueError for another width, IoError (disk full).
  void write_row(std::span<const float> row);
  /// Write the header with the number of rows, sync, rename. Call once.
  void finish();
  int64_t rows() const { return rows_; }

 private:
  void write_header();
  [[noreturn]] void io_fail(const char* what) const;

  std::filesystem::path path_;
  std::unique_ptr<PendingFile> pending_;
  std::FILE* file_ = nullptr;
  int64_t columns_ = 0;
  int64_t rows_ = 0;
};

}  // namespace axial::train
