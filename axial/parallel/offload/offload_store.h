// SPDX-License-Identifier: Apache-2.0
// Tensors outside of the device, in memory of the host or in a file, behind one interface. The step keeps
// checkpoints there, the optimizer its states (Ren et al., 2021; Rajbhandari et al., 2021).
//
// Copies are made by one thread of the store, in the order in which they were asked for. What waits for a
// copy is bounded by a fixed ring and let go at fixed places of the program, so the bytes that live do not
// depend on how fast copies are. On Meta nothing is stored, and the same bytes are counted.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "axial/parallel/offload/offload_to.h"

namespace axial::parallel {

/// Bytes of one space that a store takes, whole pages, and those that it copied since it was made.
struct SpaceBytes {
  int64_t live = 0;
  int64_t peak = 0;
  int64_t written = 0;  ///< into the space
  int64_t read = 0;     ///< from it
};

struct OffloadBytes {
  SpaceBytes host;
  SpaceBytes file;
};

/// How a file is read and written.
enum class FileCalls {
  kBest,   ///< io_uring where the system permits it, else plain
  kUring,  ///< throws where it is not permitted
  kPlain,  ///< pread and pwrite
};

struct OffloadOptions {
  OffloadTo to = OffloadTo::kHost;  ///< not kNone
  at::Device device = at::kCPU;     ///< of the tensors that are put: the host or Meta
  std::filesystem::path folder;     ///< of kFile; it exists
  int64_t puts_under_way = 2;       ///< tensors that wait for their copy: double buffering
  FileCalls calls = FileCalls::kBest;
  bool direct = true;  ///< past the page cache where the file system can
};

/// Files are checked in pieces of so many bytes, and parts of a tensor written in whole ones.
inline constexpr int64_t kOffloadPiece = int64_t{1} << 20;

inline constexpr int64_t kAllTickets = std::numeric_limits<int64_t>::max();

class OffloadStore;

namespace detail {
struct OffloadSlot;
}  // namespace detail

/// A tensor in a store: the place is given back by the destructor. The store lives as long as one of them.
/// For one thread at a time.
class Offloaded {
 public:
  Offloaded() = default;
  Offloaded(Offloaded&&) noexcept = default;
  Offloaded& operator=(Offloaded&& other) noexcept;
  ~Offloaded();

  bool defined() const { return slot_ != nullptr; }
  const std::vector<int64_t>& sizes() const;
  at::ScalarType dtype() const;

  /// Make a tensor as the one that was put, on its device, and start to fill it. The puts up to this one are
  /// done then and their tensors let go. Throws ValueError when a fetch is under way.
  void start_fetch();
  /// Wait for it, starting it when nobody has. Throws IoError naming file, expected and found bytes for what
  /// could not be written or read, or is not what was written.
  at::Tensor take();

  /// Start to copy elements [first, first + n) to or from a contiguous tensor of n elements on the host. A
  /// part begins at a multiple of kOffloadPiece bytes and ends at one, or at the end. It must not change
  /// before wait().
  /// Tickets ascend over all tensors of a store.
  int64_t start_read(const at::Tensor& into, int64_t first = 0) const;
  int64_t start_write(const at::Tensor& from, int64_t first = 0) const;
  /// Wait for those up to a ticket; throws as take().
  void wait(int64_t ticket = kAllTickets) const;

  /// The memory itself where it is the host's, with the strides of what was put; undefined in files and
  /// plans. Valid while this is.
  at::Tensor host_view() const;
  /// All of it on the host: the memory itself, or a copy of what is in the file. Throws as take().
  at::Tensor read() const;
  /// Replace it by values of this many elements, cast to its dtype. Throws as take().
  void write(const at::Tensor& values) const;

 private:
  friend class OffloadStore;
  explicit Offloaded(std::shared_ptr<detail::OffloadSlot> slot) : slot_(std::move(slot)) {}
  void release() noexcept;
  int64_t start_part(const at::Tensor& part, int64_t first, bool writes) const;

  std::shared_ptr<detail::OffloadSlot> slot_;
};

/// Where tensors go. Places of equal size are used again; a place is as large as its tensor, in whole pages.
class OffloadStore : public std::enable_shared_from_this<OffloadStore> {
 public:
  /// Throws ValueError for kNone and devices that are neither the host nor Meta, IoError naming the folder
  /// where no file can be made, UnsupportedError for kUring where it is not permitted. The file has no name,
  /// so that nothing is left over after a kill either.
  static std::shared_ptr<OffloadStore> make(OffloadOptions options);
  OffloadStore(const OffloadStore&) = delete;
  OffloadStore& operator=(const OffloadStore&) = delete;
  ~OffloadStore();

  /// Start to copy a tensor, which must not change before settle(); it is held until its copy is done, and
  /// not more than `puts_under_way` at once are. Strides are kept where the tensor is dense. Throws
  /// ValueError for a tensor of another device, IoError when the space is full or an earlier put failed.
  Offloaded put(const at::Tensor& tensor);
  /// Wait for all puts and let their tensors go; throws IoError when one failed.
  void settle();

  /// Contiguous host memory of the store's kind of tensors (Meta ones in a plan), counted as the host's until
  /// it is freed: for parts on their way.
  at::Tensor host_buffer(int64_t elements, at::ScalarType dtype);
  /// Bring a tensor of the device into one of memory of the host: in place of what is there, or added to it.
  void write_host(const at::Tensor& buffer, const at::Tensor& tensor, bool adds);

  OffloadBytes bytes() const;
  const OffloadOptions& options() const;
  /// "file in '/scratch', io_uring, past the page cache"
  std::string description() const;

 private:
  struct State;
  explicit OffloadStore(std::unique_ptr<State> state);
  friend class Offloaded;

  std::unique_ptr<State> state_;
};

}  // namespace axial::parallel
