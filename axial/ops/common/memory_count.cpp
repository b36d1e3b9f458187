// SPDX-License-Identifier: Apache-2.0
// Allocators in front of torch's own for host and Meta; they are there while somebody counts. Each allocation
// remembers who counts it, so that it may end in another thread and after its count.
#include "axial/ops/common/memory_count.h"

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

namespace axial::ops {

namespace detail {

// The same text for the same name, for ever.
const std::string* interned(std::string_view name) {
  static std::mutex mutex;
  static std::set<std::string, std::less<>> all;
  const std::lock_guard lock(mutex);
  const auto found = all.find(name);
  return found != all.end() ? &*found : &*all.emplace(name).first;
}

// Who allocates in this thread.
struct Names {
  const std::string* block = nullptr;
  const std::string* op = nullptr;
  int64_t depth = 0;  // ops that call each other
};
Names& names() {
  thread_local Names names;
  return names;
}

// While it lives, the outermost op of its thread has a name.
class OpNames {
 public:
  OpNames()
      : handle_(at::addThreadLocalCallback(
            at::RecordFunctionCallback(&begin, &end)
                .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}))) {}
  OpNames(const OpNames&) = delete;
  OpNames& operator=(const OpNames&) = delete;
  ~OpNames() { at::removeCallback(handle_); }

 private:
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
    if (names().depth++ == 0) names().op = interned(function.name());
    return nullptr;
  }
  static void end(const at::RecordFunction&, at::ObserverContext*) {
    if (--names().depth == 0) names().op = nullptr;
  }
  at::CallbackHandle handle_;
};

// What one count knows; thread-safe.
class Counted {
  template <class F>
  auto locked(const F& read) const {
    const std::lock_guard lock(mutex_);
    return read();
  }

 public:
  // The count of this thread; null: nobody counts.
  static std::shared_ptr<Counted>& current() {
    thread_local std::shared_ptr<Counted> state;
    return state;
  }

  int64_t start(int64_t bytes, MemoryUse use) {
    const std::lock_guard lock(mutex_);
    const int64_t number = allocations_++;
    live_ += bytes;
    add(use, bytes);
    if (live_ > peak_) {
      peak_ = live_;
      at_peak_ = by_use_;
      peak_allocation_ = number;
    }
    if (listener_) listener_({number, bytes, use, names().block, names().op});
    return number;
  }

  void end(int64_t number, int64_t bytes, MemoryUse use) {
    const std::lock_guard lock(mutex_);
    live_ -= bytes;
    by_use_[static_cast<size_t>(use)] -= bytes;
    if (listener_) listener_({number, -bytes, use});
  }

  void change(int64_t number, int64_t bytes, MemoryUse from, MemoryUse to) {
    const std::lock_guard lock(mutex_);
    by_use_[static_cast<size_t>(from)] -= bytes;
    add(to, bytes);
    if (listener_) listener_({number, 0, to});
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = live_;
    at_peak_ = peaks_ = by_use_;
    peak_allocation_ = allocations_ - 1;
  }

  int64_t live() const {
    return locked([&] { return live_; });
  }
  int64_t live(MemoryUse use) const {
    return locked([&] { return by_use_[static_cast<size_t>(use)]; });
  }
  int64_t peak() const {
    return locked([&] { return peak_; });
  }
  int64_t peak(MemoryUse use) const {
    return locked([&] { return peaks_[static_cast<size_t>(use)]; });
  }
  BytesByUse at_peak() const {
    return locked([&] { return at_peak_; });
  }
  int64_t peak_allocation() const {
    return locked([&] { return peak_allocation_; });
  }
  void listen(std::function<void(const MemoryEvent&)> listener) {
    const std::lock_guard lock(mutex_);
    op_names_ = listener ? std::make_unique<OpNames>() : nullptr;
    listener_ = std::move(listener);
  }

 private:
  void add(MemoryUse use, int64_t bytes) {
    const auto at = static_cast<size_t>(use);
    by_use_[at] += bytes;
    peaks_[at] = std::max(peaks_[at], by_use_[at]);
  }

  mutable std::mutex mutex_;
  int64_t live_ = 0, peak_ = 0, allocations_ = 0, peak_allocation_ = -1;
  BytesByUse by_use_{}, at_peak_{}, peaks_{};
  std::function<void(const MemoryEvent&)> listener_;
  std::unique_ptr<OpNames> op_names_;
};

}  // namespace detail

namespace {

using detail::Counted;

MemoryUse& current_use() {
  thread_local MemoryUse use = MemoryUse::kOther;
  return use;
}

struct Block {
  std::shared_ptr<Counted> state;
  int64_t number = 0, bytes = 0;
  MemoryUse use = MemoryUse::kOther;
};

// In front of torch's own allocator of Meta, whose memory is nothing.
class CountingMeta final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const std::shared_ptr<Counted>& state = Counted::current();
    const c10::Device device(c10::kMeta);
    if (!state || bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, device};
    const MemoryUse use = current_use();
    const auto size = static_cast<int64_t>(bytes);
    return {nullptr, new Block{state, state->start(size, use), size, use}, &free_block, device};
  }
  void copy_data(void*, const void*, size_t) const override {}
  static Block* find(const c10::DataPtr& memory) {
    return memory.get_deleter() == &free_block ? static_cast<Block*>(memory.get_context()) : nullptr;
  }

 private:
  static void free_block(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    block->state->end(block->number, block->bytes, block->use);
  }
};

// In front of torch's own allocator of the host. Its context is the memory itself, as callers of raw_allocate
// want it; what is counted is found by address.
class CountingHost final : public c10::Allocator {
 public:
  explicit CountingHost(c10::Allocator* inner) : inner_(inner) { self() = this; }

  c10::DataPtr allocate(size_t bytes) override {
    const std::shared_ptr<Counted>& state = Counted::current();
    c10::DataPtr memory = inner_->allocate(bytes);
    if (!state || bytes == 0 || memory.get() != memory.get_context()) return memory;
    const MemoryUse use = current_use();
    const auto size = static_cast<int64_t>(bytes);
    const Block block{state, state->start(size, use), size, use};
    {
      const std::lock_guard lock(mutex_);
      blocks_[memory.get()] = block;
    }
    const c10::Device device = memory.device();
    void* data = memory.release_context();
    return {data, data, &free_memory, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_memory; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }
  static bool set_use(const c10::DataPtr& memory, MemoryUse use) {
    if (self() == nullptr) return false;
    const std::lock_guard lock(self()->mutex_);
    const auto found = self()->blocks_.find(memory.get());
    if (found == self()->blocks_.end()) return false;
    Block& block = found->second;
    block.state->change(block.number, block.bytes, std::exchange(block.use, use), use);
    return true;
  }

 private:
  static CountingHost*& self() {
    static CountingHost* allocator = nullptr;
    return allocator;
  }
  // Of memory from before there was a count, too.
  static void free_memory(void* data) {
    Block block;
    {
      const std::lock_guard lock(self()->mutex_);
      const auto found = self()->blocks_.find(data);
      if (found != self()->blocks_.end()) {
        block = std::move(found->second);
        self()->blocks_.erase(found);
      }
    }
    if (block.state) block.state->end(block.number, block.bytes, block.use);
    self()->inner_->raw_deallocate(data);
  }

  c10::Allocator* inner_;
  std::mutex mutex_;
  std::unordered_map<void*, Block> blocks_;
};

constexpr uint8_t kFirst = 255;  // priority

// Puts the allocators in front at the first count of the program and leaves them there: memory that others
// hold may have come from them. Without a count in the thread they pass on what they are asked.
void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    c10::SetAllocator(c10::kCPU, new CountingHost(c10::GetAllocator(c10::kCPU)), kFirst);
    c10::SetAllocator(c10::kMeta, new CountingMeta, kFirst);
  });
}

}  // namespace

const char* name_of(MemoryUse use) {
  constexpr const char* kNames[kMemoryUses] = {"other",       "parameters", "gradients", "optimizer",
                                               "activations", "logits",     "gathered",  "communication"};
  return kNames[static_cast<size_t>(use)];
}

MemoryScope::MemoryScope(MemoryUse use, std::string_view block)
    : before_(std::exchange(current_use(), use)), block_before_(detail::names().block) {
  if (!block.empty() && detail::Counted::current()) detail::names().block = detail::interned(block);
}

MemoryScope::~MemoryScope() {
  current_use() = before_;
  detail::names().block = block_before_;
}

MemoryPause::MemoryPause() : before_(std::exchange(detail::Counted::current(), nullptr)) {}

MemoryPause::~MemoryPause() { detail::Counted::current() = before_; }

void set_memory_use(const at::Tensor& tensor, MemoryUse use) { MemoryCount::set_use(tensor, use); }

void MemoryCount::set_use(const at::Tensor& tensor, MemoryUse use) {
  if (!tensor.defined() || !tensor.has_storage()) return;
  const c10::DataPtr& memory = tensor.storage().data_ptr();
  if (memory.get() != nullptr) {
    CountingHost::set_use(memory, use);
  } else if (Block* block = CountingMeta::find(memory)) {
    block->state->change(block->number, block->bytes, std::exchange(block->use, use), use);
  }
}

MemoryCount::MemoryCount() : state_(std::make_shared<detail::Counted>()) {
  install();
  before_ = std::exchange(detail::Counted::current(), state_);
}

MemoryCount::~MemoryCount() { detail::Counted::current() = before_; }

int64_t MemoryCount::live() const { return state_->live(); }
int64_t MemoryCount::live(MemoryUse use) const { return state_->live(use); }
int64_t MemoryCount::peak() const { return state_->peak(); }
int64_t MemoryCount::peak(MemoryUse use) const { return state_->peak(use); }
BytesByUse MemoryCount::at_peak() const { return state_->at_peak(); }
int64_t MemoryCount::peak_allocation() const { return state_->peak_allocation(); }
void MemoryCount::reset_peak() { state_->reset_peak(); }
void MemoryCount::listen(std::function<void(const MemoryEvent&)> listener) {
  state_->listen(std::move(listener));
}

}  // namespace axial::ops
