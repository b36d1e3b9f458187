// SPDX-License-Identifier: Apache-2.0
// A file that only grows, each piece handed to the system at once: the base of metrics.jsonl and of
// the TensorBoard event file, which are read while a run goes on.
#pragma once

#include <filesystem>
#include <string_view>

namespace axial::train {

/// Opens (or creates) a file for appending; every failure is an IoError that names the path.
class AppendFile {
 public:
  explicit AppendFile(std::filesystem::path path);
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&& other) noexcept;
  ~AppendFile();
  /// Append all bytes; when this returns, any reader on this machine sees them.
  void append(std::string_view bytes);
  /// fsync: what was appended survives a power failure. Called before a checkpoint is published.
  void sync();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace axial::train
