// SPDX-License-Identifier: Apache-2.0
// Temporary name, sync and rename behind atomic_writer.h.
#include "axial/core/file/atomic_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "axial/core/check/check.h"

namespace axial {

AtomicWriter::AtomicWriter(std::filesystem::path path) : target_(output_target(path)) {
  if (target_.descriptor >= 0) {
    writer_ = std::make_unique<FileWriter>(::fcntl(target_.descriptor, F_DUPFD_CLOEXEC, 0), std::move(path));
    return;
  }
  if (!target_.in_place) temporary_ = fmt::format("{}.tmp-{}", target_.path.string(), ::getpid());
  writer_ = std::make_unique<FileWriter>(target_.in_place ? target_.path : temporary_);
}

AtomicWriter::~AtomicWriter() {
  if (!writer_) return;
  writer_.reset();
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicWriter::commit() {
  writer_->finish();
  if (!temporary_.empty()) rename_durably(temporary_, target_.path);
  writer_.reset();
}

}  // namespace axial
