// SPDX-License-Identifier: Apache-2.0
// Places in memory of the host, each a map of its own.
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/offload/backing.h"

namespace axial::parallel::detail {

HostMemory::HostMemory(int64_t bytes) : bytes_(static_cast<size_t>(whole_pages(bytes))) {
  if (bytes_ == 0) return;
  void* data = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    fail<IoError>("offload", "memory of the host; expected {} bytes, got none: {}", bytes_,
                  std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(data);
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostMemory::~HostMemory() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

namespace {

// A place is its address: places are made in one thread and copied in another.
class HostBacking final : public Backing {
 public:
  int64_t make_place(int64_t bytes) override {
    places_.emplace_back(bytes);
    return static_cast<int64_t>(reinterpret_cast<intptr_t>(places_.back().data()));
  }
  std::byte* memory(int64_t place) const override {
    return reinterpret_cast<std::byte*>(static_cast<intptr_t>(place));
  }
  void write(int64_t place, int64_t first, const std::byte* from, int64_t bytes, PieceHashes&) override {
    std::memcpy(memory(place) + first, from, static_cast<size_t>(bytes));
  }
  void read(int64_t place, int64_t first, std::byte* into, int64_t bytes, const PieceHashes&) override {
    std::memcpy(into, memory(place) + first, static_cast<size_t>(bytes));
  }
  std::string description() const override { return "memory of the host"; }

 private:
  std::vector<HostMemory> places_;
};

}  // namespace

std::unique_ptr<Backing> make_host_backing() { return std::make_unique<HostBacking>(); }

}  // namespace axial::parallel::detail
