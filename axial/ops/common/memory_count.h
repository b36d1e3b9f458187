// SPDX-License-Identifier: Apache-2.0
// Bytes that tensors take, counted alike on the host and on Meta, by what they are for. The planner counts a
// step without data with it, and a run counts its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace axial::ops {

namespace detail {
class Counted;
}  // namespace detail

/// What a tensor is there for.
enum class MemoryUse {
  kOther,
  kParameters,     ///< values that a rank holds, compute dtype
  kGradients,      ///< of parameters, before and after they are summed
  kOptimizer,      ///< moments and fp32 copies
  kActivations,    ///< what blocks make, and its gradients
  kLogits,         ///< likewise, by the head of a model
  kGathered,       ///< values of other ranks, fetched for a while (ZeRO-3)
  kCommunication,  ///< buffers of collectives
};
inline constexpr size_t kMemoryUses = 8;
/// "activations", ..
const char* name_of(MemoryUse use);

/// What is allocated by this thread while it lives is for `use`, and, where a name is given, by the block of
/// this name; the innermost scope counts.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryUse use, std::string_view block = {});
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  ~MemoryScope();

 private:
  MemoryUse before_;
  const std::string* block_before_;
};

/// Memory of a tensor turns out to be for `use`: counted so from here on. Nothing for uncounted memory.
void set_memory_use(const at::Tensor& tensor, MemoryUse use);

/// What is allocated by this thread while it lives is not counted: scratch memory of others, as of Gloo.
class MemoryPause {
 public:
  MemoryPause();
  MemoryPause(const MemoryPause&) = delete;
  MemoryPause& operator=(const MemoryPause&) = delete;
  ~MemoryPause();

 private:
  std::shared_ptr<detail::Counted> before_;
};

/// Bytes by use.
using BytesByUse = std::array<int64_t, kMemoryUses>;

/// An allocation, or the end of one, in the order in which they happen.
struct MemoryEvent {
  int64_t allocation = 0;  ///< numbered from 0
  int64_t bytes = 0;       ///< negative: it ends; 0: it changes its use
  MemoryUse use = MemoryUse::kOther;
  const std::string* block = nullptr;  ///< of the MemoryScope; never freed; null: none
  const std::string* op = nullptr;     ///< outermost op of torch at work, "aten::linear"; likewise
};

/// Counts the bytes of host and Meta tensors whose memory is allocated by a thread while it counts there,
/// until they are freed, by whomever. Sizes are those asked for, without an allocator's rounding.
class MemoryCount {
 public:
  /// Starts to count in this thread; a count before it rests meanwhile.
  MemoryCount();
  MemoryCount(const MemoryCount&) = delete;
  MemoryCount& operator=(const MemoryCount&) = delete;
  /// Ends it. Tensors may outlive it.
  ~MemoryCount();

  int64_t live() const;
  int64_t live(MemoryUse use) const;
  /// The most that lived at once since the last reset_peak(), and of what it was made.
  int64_t peak() const;
  BytesByUse at_peak() const;
  /// The most that lived at once for one use.
  int64_t peak(MemoryUse use) const;
  /// Number of the allocation at which the peak was reached.
  int64_t peak_allocation() const;
  void reset_peak();
  /// Told of all that follows, from any thread, one at a time; none ends it. Ops are named for the thread
  /// that calls this, which is the one that counts.
  void listen(std::function<void(const MemoryEvent&)> listener);

 private:
  friend void set_memory_use(const at::Tensor& tensor, MemoryUse use);
  static void set_use(const at::Tensor& tensor, MemoryUse use);
  std::shared_ptr<detail::Counted> state_, before_;
};

}  // namespace axial::ops
