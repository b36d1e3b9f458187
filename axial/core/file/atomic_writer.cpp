// SPDX-License-Identifier: Apache-2.0
// Temporary name, sync and rename behind atomic_writer.h.
#include "axial/core/file/atomic_writer.h"

#include <unistd.h>

#include <utility>

#include "axial/core/check/check.h"

namespace axial {

AtomicWriter::AtomicWriter(std::filesystem::path path)
    : path_(std::move(path)),
      temporary_(fmt::format("{}.tmp-{}", path_.string(), ::getpid())),
      writer_(std::make_unique<FileWriter>(temporary_)) {}

AtomicWriter::~AtomicWriter() {
  if (!writer_) return;
  writer_.reset();
  ::unlink(temporary_.c_str());
}

void AtomicWriter::commit() {
  writer_->finish();
  rename_durably(temporary_, path_);
  writer_.reset();
}

}  // namespace axial
