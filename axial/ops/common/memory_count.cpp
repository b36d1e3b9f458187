// SPDX-License-Identifier: Apache-2.0
// Allocators in front of torch's own for host and Meta; they are there while somebody counts. Each allocation
// remembers who counts it, so that it may end in another thread and after its count.
#include "axial/ops/common/memory_count.h"

#include <c10/core/Allocator.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

namespace axial::ops {

class MemoryCount::State {
 public:
  // The count of this thread; null: nobody counts.
  static std::shared_ptr<State>& current() {
    thread_local std::shared_ptr<State> state;
    return state;
  }

  int64_t start(int64_t bytes, MemoryUse use) {
    const std::lock_guard lock(mutex_);
    const int64_t number = allocations_++;
    live_ += bytes;
    by_use_[static_cast<size_t>(use)] += bytes;
    if (live_ > peak_) {
      peak_ = live_;
      at_peak_ = by_use_;
      peak_allocation_ = number;
    }
    if (listener_) listener_({number, bytes, use});
    return number;
  }

  void end(int64_t number, int64_t bytes, MemoryUse use) {
    const std::lock_guard lock(mutex_);
    live_ -= bytes;
    by_use_[static_cast<size_t>(use)] -= bytes;
    if (listener_) listener_({number, -bytes, use});
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = live_;
    at_peak_ = by_use_;
    peak_allocation_ = allocations_ - 1;
  }

  std::mutex mutex_;
  int64_t live_ = 0, peak_ = 0, allocations_ = 0, peak_allocation_ = -1;
  BytesByUse by_use_{}, at_peak_{};
  std::function<void(const MemoryEvent&)> listener_;
};

namespace {

MemoryUse& current_use() {
  thread_local MemoryUse use = MemoryUse::kOther;
  return use;
}

// In front of `inner`, which has the memory.
template <class State>
class Counting final : public c10::Allocator {
 public:
  explicit Counting(c10::Allocator* inner) : inner_(inner) {}

  c10::DataPtr allocate(size_t bytes) override {
    const std::shared_ptr<State>& state = State::current();
    c10::DataPtr memory = inner_->allocate(bytes);
    if (!state || bytes == 0) return memory;
    const MemoryUse use = current_use();
    const auto size = static_cast<int64_t>(bytes);
    const int64_t number = state->start(size, use);
    void* data = memory.get();
    const c10::Device device = memory.device();
    auto* block = new Block{state, number, size, use, std::move(memory)};
    return {data, block, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }

 private:
  struct Block {
    std::shared_ptr<State> state;
    int64_t number, bytes;
    MemoryUse use;
    c10::DataPtr memory;
  };
  static void free_block(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    block->state->end(block->number, block->bytes, block->use);
  }
  c10::Allocator* inner_;
};

constexpr uint8_t kFirst = 255;  // priority

// Puts the allocators in front at the first count of the program and leaves them there: memory that others
// hold may have come from them. Without a count in the thread they pass on what they are asked.
template <class State>
void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const c10::DeviceType device : {c10::kCPU, c10::kMeta}) {
      c10::SetAllocator(device, new Counting<State>(c10::GetAllocator(device)), kFirst);
    }
  });
}

}  // namespace

const char* name_of(MemoryUse use) {
  constexpr const char* kNames[kMemoryUses] = {"other",       "parameters", "gradients", "optimizer",
                                               "activations", "logits",     "gathered",  "communication"};
  return kNames[static_cast<size_t>(use)];
}

MemoryScope::MemoryScope(MemoryUse use) : before_(std::exchange(current_use(), use)) {}

MemoryScope::~MemoryScope() { current_use() = before_; }

MemoryCount::MemoryCount() : state_(std::make_shared<State>()) {
  install<State>();
  before_ = std::exchange(State::current(), state_);
}

MemoryCount::~MemoryCount() { State::current() = before_; }

int64_t MemoryCount::live() const {
  const std::lock_guard lock(state_->mutex_);
  return state_->live_;
}

int64_t MemoryCount::live(MemoryUse use) const {
  const std::lock_guard lock(state_->mutex_);
  return state_->by_use_[static_cast<size_t>(use)];
}

int64_t MemoryCount::peak() const {
  const std::lock_guard lock(state_->mutex_);
  return state_->peak_;
}

BytesByUse MemoryCount::at_peak() const {
  const std::lock_guard lock(state_->mutex_);
  return state_->at_peak_;
}

int64_t MemoryCount::peak_allocation() const {
  const std::lock_guard lock(state_->mutex_);
  return state_->peak_allocation_;
}

void MemoryCount::reset_peak() { state_->reset_peak(); }

void MemoryCount::listen(std::function<void(const MemoryEvent&)> listener) {
  const std::lock_guard lock(state_->mutex_);
  state_->listener_ = std::move(listener);
}

}  // namespace axial::ops
