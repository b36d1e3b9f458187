// SPDX-License-Identifier: Apache-2.0
// Files that survive: atomic writes, durable renames, memory maps, content hashes. Used by data and train.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace axial {

/// Read a whole file; throws IoError naming the path and the system's reason.
std::string read_file(const std::filesystem::path& path);

/// Write a file so that a reader sees the old content or the new, never a part: temporary file in the
/// same folder, fsync, rename, fsync of the folder. Links and devices are treated as output_target says.
/// Throws IoError (disk full, permission) and removes the temporary file.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// fsync a file or a folder; throws IoError.
void sync_to_disk(const std::filesystem::path& path);

/// Rename `from` to `to` (a folder or file, `to` must not exist as a folder) and fsync the parent.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Where output under a name belongs, so that a rename never replaces a link or a device.
struct OutputTarget {
  std::filesystem::path path;  ///< symbolic links followed
  bool in_place = false;       ///< a device, a pipe or an open descriptor: written directly, no rename
  int descriptor = -1;  ///< the name stands for this open descriptor (/dev/stdout, /dev/fd/3); -1: none
};
/// Throws IoError for a folder, an empty name and a loop of links.
OutputTarget output_target(const std::filesystem::path& path);

/// Sequential writer that hashes while it writes and reports the first failure, disk full included.
class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& path);
  /// Write where an open descriptor stands; takes it over. `name` is for messages.
  FileWriter(int descriptor, std::filesystem::path name);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// fsync (where there is something to sync: not a pipe) and close; returns the hash (32 hex digits,
  /// XXH3-128) of all bytes. Call once.
  std::string finish();
  int64_t bytes_written() const { return bytes_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  void* hash_ = nullptr;
};

/// Read-only memory map of a whole file; an empty file maps to an empty span.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

/// XXH3-128 of the bytes as 32 hex digits: detects damage, not forgery.
std::string hash_bytes(std::span<const std::byte> bytes);
/// The same over a file, streamed; `on_bytes` (optional) is told how many bytes each piece had.
std::string hash_file(const std::filesystem::path& path,
                      const std::function<void(int64_t)>& on_bytes = nullptr);

}  // namespace axial
