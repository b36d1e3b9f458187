// SPDX-License-Identifier: Apache-2.0
// The memory behind an OffloadStore: of the host, a file, or none (a plan). Used by offload_store.cpp; made
// by host_backing.cpp and file_backing.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "axial/parallel/offload/offload_store.h"

namespace axial::parallel::detail {

/// Alignment of places, buffers and transfers: a page, and what direct files ask for.
inline constexpr int64_t kPage = 4096;
inline int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

/// Hashes of the pieces of one tensor, as they were written.
using PieceHashes = std::vector<uint64_t>;

/// Places are told by a number: an address or an offset.
class Backing {
 public:
  virtual ~Backing() = default;
  /// A new place of whole pages. Throws IoError when there is no room.
  virtual int64_t make_place(int64_t bytes) = 0;
  /// The memory of a place; null in files and plans.
  virtual std::byte* memory(int64_t place) const = 0;
  /// Copy bytes [first, first + bytes) of what is in a place; `hashes` are those of all its pieces. Called by
  /// one thread. Throw IoError.
  virtual void write(int64_t place, int64_t first, const std::byte* from, int64_t bytes,
                     PieceHashes& hashes) = 0;
  virtual void read(int64_t place, int64_t first, std::byte* into, int64_t bytes,
                    const PieceHashes& hashes) = 0;
  virtual std::string description() const = 0;
  /// Bytes of the host that it takes for itself.
  virtual int64_t host_bytes() const { return 0; }
};

/// A map of anonymous memory, page-aligned, freed by its destructor. Where tensors lie on a device of their
/// own, this is the memory that the device's driver has to know (pinned), because all copies go to and from
/// it.
class HostMemory {
 public:
  /// Throws IoError naming the bytes.
  explicit HostMemory(int64_t bytes);
  HostMemory(HostMemory&& other) noexcept;
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory();
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

std::unique_ptr<Backing> make_host_backing();
/// Throws IoError, UnsupportedError.
std::unique_ptr<Backing> make_file_backing(const OffloadOptions& options);
/// Of a plan: the host bytes of `options`' backing, and no memory.
std::unique_ptr<Backing> make_planned_backing(const OffloadOptions& options);

}  // namespace axial::parallel::detail
