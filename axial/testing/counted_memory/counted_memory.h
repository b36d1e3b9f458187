// SPDX-License-Identifier: Apache-2.0
// Bytes that tensors would take, counted on the Meta device: no test needs the memory that it speaks of.
#pragma once

#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstdint>

namespace axial::testing {

/// Counts bytes of Meta tensors while it lives; the allocator before it is put back. Tensors that are
/// allocated under it must not outlive it.
class CountedMemory final : public c10::Allocator {
 public:
  CountedMemory() : before_(c10::GetAllocator(c10::kMeta)) { c10::SetAllocator(c10::kMeta, this, kFirst); }
  ~CountedMemory() override { c10::SetAllocator(c10::kMeta, before_, kFirst); }
  CountedMemory(const CountedMemory&) = delete;
  CountedMemory& operator=(const CountedMemory&) = delete;

  c10::DataPtr allocate(size_t bytes) override {
    live_ += static_cast<int64_t>(bytes);
    peak_ = std::max(peak_, live_);
    return {nullptr, new Block{this, bytes}, &free_block, c10::Device(c10::kMeta)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {}

  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }  ///< since the last reset_peak()
  void reset_peak() { peak_ = live_; }

 private:
  static constexpr uint8_t kFirst = 255;  // priority
  struct Block {
    CountedMemory* owner;
    size_t bytes;
  };
  static void free_block(void* context) {
    auto* block = static_cast<Block*>(context);
    block->owner->live_ -= static_cast<int64_t>(block->bytes);
    delete block;
  }
  c10::Allocator* before_;
  int64_t live_ = 0;
  int64_t peak_ = 0;
};

}  // namespace axial::testing
