// SPDX-License-Identifier: Apache-2.0
// The header has a fixed length and is written twice: first without rows, at the end with their number.
#include "axial/train/infer/npy.h"

#include <fcntl.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <string>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "npy";
constexpr size_t kHeaderBytes = 128;  // magic, version, length and text; a multiple of 64 as the format asks
static_assert(std::endian::native == std::endian::little);

}  // namespace

NpyWriter::NpyWriter(std::filesystem::path path, int64_t columns)
    : path_(std::move(path)), columns_(columns) {
  AXIAL_CHECK(columns > 0, kOp, "columns; expected a positive number, got {}", columns);
  const OutputTarget target = output_target(path_);
  AXIAL_CHECK(!target.in_place, kOp,
              "the number of rows is written last; expected a regular file, got the pipe or device '{}'",
              path_.string());
  path_ = target.path;
  pending_ = std::make_unique<PendingFile>(path_);
  file_ = ::fdopen(::fcntl(pending_->descriptor(), F_DUPFD_CLOEXEC, 0), "wb");
  if (!file_) io_fail("create");
  write_header();
}

NpyWriter::~NpyWriter() {
  if (file_) std::fclose(file_);
}

void NpyWriter::io_fail(const char* what) const {
  fail<IoError>(kOp, "cannot {} '{}': {}", what, path_.string(), std::strerror(errno));
}

void NpyWriter::write_header() {
  std::string text =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows_, columns_);
  text.resize(kHeaderBytes - 10 - 1, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(text.size() & 0xff);
  header += static_cast<char>(text.size() >> 8);
  header += text;
  if (std::fwrite(header.data(), 1, header.size(), file_) != header.size()) io_fail("write");
}

void NpyWriter::write_row(std::span<const float> row) {
  AXIAL_CHECK(static_cast<int64_t>(row.size()) == columns_, kOp, "row; expected {} values, got {}", columns_,
              row.size());
  if (std::fwrite(row.data(), sizeof(float), row.size(), file_) != row.size()) io_fail("write");
  ++rows_;
}

void NpyWriter::finish() {
  if (std::fseek(file_, 0, SEEK_SET) != 0) io_fail("write");
  write_header();
  std::FILE* file = file_;
  file_ = nullptr;
  if (std::fclose(file) != 0) io_fail("close");
  pending_->commit();
}

}  // namespace axial::train
