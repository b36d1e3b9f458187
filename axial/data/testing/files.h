// SPDX-License-Identifier: Apache-2.0
// Helpers of this layer's tests: temporary folders, packed bytes, the text of an error, real files.
#pragma once

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "axial/core/check/check.h"

namespace axial::data::testing {

/// A folder of its own, removed at the end of the scope.
class TempFolder {
 public:
  TempFolder() {
    static std::atomic<int> counter{0};
    path_ = std::filesystem::temp_directory_path() / fmt::format("axial-data-{}-{}", ::getpid(), counter++);
    std::filesystem::create_directories(path_);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code error;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, error);
    std::filesystem::remove_all(path_, error);
  }
  const std::filesystem::path& path() const { return path_; }
  /// Write a file and return its path as text.
  std::string write(const std::string& name, std::string_view content) const {
    const std::filesystem::path path = path_ / name;
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
  }

 private:
  std::filesystem::path path_;
};

/// One gzip member.
inline std::string gzip_bytes(std::string_view text) {
  z_stream stream{};
  if (deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("zlib");
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

/// One zstd frame with a checksum.
inline std::string zstd_bytes(std::string_view text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  const size_t size = ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size());
  ZSTD_freeCCtx(context);
  out.resize(size);
  return out;
}

/// The message of the axial::Error that `body` throws; "" when it throws none.
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// A file below AXIAL_DATA/genomes, or nothing when the data are not on this machine.
inline std::optional<std::filesystem::path> genome_file(const std::string& name) {
  const char* root = std::getenv("AXIAL_DATA");
  if (!root) return std::nullopt;
  std::filesystem::path path = std::filesystem::path(root) / "genomes" / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

}  // namespace axial::data::testing

/// Bind `variable` to a real file or skip the test, saying why.
#define AXIAL_GENOME_FILE(variable, name)                                                             \
  const auto variable##_found = ::axial::data::testing::genome_file(name);                            \
  if (!variable##_found) GTEST_SKIP() << "AXIAL_DATA does not point to data with genomes/" << (name); \
  const std::filesystem::path& variable = *variable##_found
