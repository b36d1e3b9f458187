// SPDX-License-Identifier: Apache-2.0
// What atomic_writer.h writes to: a pending file, or the target itself.
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
  if (target_.in_place) {
    writer_ = std::make_unique<FileWriter>(target_.path);
    return;
  }
  pending_ = std::make_unique<PendingFile>(target_.path);
  writer_ = std::make_unique<FileWriter>(::fcntl(pending_->descriptor(), F_DUPFD_CLOEXEC, 0), target_.path);
}

AtomicWriter::~AtomicWriter() = default;

void AtomicWriter::commit() {
  writer_->finish();
  if (pending_) pending_->commit();
  writer_.reset();
}

}  // namespace axial
