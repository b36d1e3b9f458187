// SPDX-License-Identifier: Apache-2.0
// The safetensors file format without torch: strict header parser, memory-mapped reader, streaming
// writer. File = 8 bytes little-endian header length, JSON header, tensor bytes without holes.
// Checkpoints and Hugging Face folders are made of it; tensor_io.h adds torch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "axial/core/dtype/dtype.h"
#include "axial/core/file/file.h"

namespace axial::train {

/// One tensor of a file as its header states it.
struct TensorEntry {
  std::string name;
  std::string stored_dtype;  ///< the format's name: "F32", "BF16", "I64", ...
  std::optional<DType>
      dtype;  ///< ours; absent for types that Axial does not compute with (U16, F8_E4M3, ...)
  std::vector<int64_t> shape;  ///< {} is a scalar
  int64_t begin = 0;           ///< first byte, counted from the start of the data section
  int64_t end = 0;             ///< one past the last byte

  int64_t bytes() const { return end - begin; }
};

/// A parsed and validated header. Tensors are in the order of their bytes.
struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;
  std::map<std::string, std::string> metadata;  ///< "__metadata__" of the file
  int64_t data_begin = 0;                       ///< offset of the data section in the file

  /// Entry by name, or nullptr.
  const TensorEntry* find(std::string_view name) const;
  std::vector<std::string> names() const;

 private:
  friend SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view origin);
  std::map<std::string, size_t, std::less<>> index_;
};

/// Largest header that is read or written.
inline constexpr int64_t kMaxHeaderBytes = 100'000'000;

/// Parse the header of a whole file in memory. Throws ValueError naming `origin` and the first defect:
/// length out of bounds, invalid JSON, duplicate or unknown keys, unknown dtype, sizes that overflow or do
/// not fit the offsets, tensors that overlap, leave holes or do not end with the file. Never reads outside.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view origin);

/// A mapped file: bytes of tensors by name, without copies. Keep it alive while spans are used.
class SafetensorsFile {
 public:
  /// Throws IoError (cannot open) or ValueError (malformed).
  explicit SafetensorsFile(std::filesystem::path path);

  const SafetensorsHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return path_; }
  /// Throws ValueError with the nearest name.
  const TensorEntry& at(std::string_view name) const;
  /// Bytes of a tensor, row-major, possibly unaligned.
  std::span<const std::byte> bytes(std::string_view name) const;

 private:
  std::filesystem::path path_;
  MappedFile map_;
  SafetensorsHeader header_;
};

/// What is to be written, known before the first byte.
struct TensorPlan {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  int64_t bytes() const;
};

/// Bytes and content hash (XXH3-128, hex) of a written file.
struct WrittenFile {
  int64_t bytes = 0;
  std::string hash;
};

/// Writes the header at once and then tensor after tensor, so that only one is in memory.
class SafetensorsWriter {
 public:
  /// Throws ValueError for a duplicate or reserved name, IoError when the file cannot be written.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorPlan>& tensors,
                    const std::map<std::string, std::string>& metadata = {});
  /// Next bytes of the plan, in its order; a tensor may come in several pieces.
  void write(std::span<const std::byte> piece);
  /// fsync and close; throws ValueError when bytes are missing.
  WrittenFile finish();

 private:
  FileWriter file_;
  int64_t expected_ = 0;
  int64_t written_ = 0;
};

}  // namespace axial::train
