// SPDX-License-Identifier: Apache-2.0
// torch's caching allocator for CUDA without a device: what a run's allocations reserve, fragmentation
// included. Called by the planner with the events of a step.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "axial/ops/common/memory_count.h"

namespace axial::train {

/// The rules of c10/cuda/CUDACachingAllocator (torch 2.x, one stream, no garbage collection): sizes are
/// rounded up to 512 bytes; at most 1 MiB come out of segments of 2 MiB, more out of segments of 20 MiB, from
/// 10 MiB on out of one of their own, rounded up to 2 MiB; the smallest free block that fits is cut where
/// more than 512 bytes (1 MiB of a large segment) are left; free neighbours merge; when the device is full
/// free segments are given back first. With expandable segments each kind has one range of addresses to which
/// pages of 2 and 20 MiB are mapped, and unmapped again when the device is full.
class CachingAllocator {
 public:
  struct Options {
    int64_t capacity = 0;  ///< bytes of the device for tensors; 0: no limit
    bool expandable_segments = false;
  };
  explicit CachingAllocator(Options options) : options_(options) {}

  /// False when the device is full.
  bool allocate(int64_t id, int64_t bytes);
  /// Throws ValueError for an id that is not allocated.
  void free(int64_t id);

  int64_t allocated() const { return allocated_; }  ///< rounded sizes
  int64_t reserved() const { return reserved_; }
  int64_t peak_allocated() const { return peak_allocated_; }
  int64_t peak_reserved() const { return peak_reserved_; }

 private:
  enum class State : uint8_t { kUsed, kFree, kUnmapped };
  struct Block {
    int64_t size = 0;
    int64_t segment = 0;  // begin of its segment
    State state = State::kFree;
  };
  struct Pool {
    int64_t page = 0, least_rest = 0;
    std::map<int64_t, Block> blocks;             // by address
    std::set<std::pair<int64_t, int64_t>> free;  // size, address
  };
  using Place = std::map<int64_t, Block>::iterator;

  Pool& pool_of(int64_t rounded);
  std::optional<Place> grow(Pool& pool, int64_t rounded);
  std::optional<Place> grow_segment(Pool& pool, int64_t rounded);
  std::optional<Place> grow_range(Pool& pool, int64_t rounded);
  bool reserve(int64_t bytes);
  void give_back(Pool& pool);
  Place cut(Pool& pool, Place block, int64_t size, State rest);
  Place merge(Pool& pool, Place block);
  void set_state(Pool& pool, Place block, State state);

  Options options_;
  Pool small_{int64_t{2} << 20, 512, {}, {}}, large_{int64_t{20} << 20, (int64_t{1} << 20) + 1, {}, {}};
  std::unordered_map<int64_t, std::pair<Pool*, int64_t>> used_;  // id -> address
  int64_t allocated_ = 0, reserved_ = 0, peak_allocated_ = 0, peak_reserved_ = 0;
  int64_t next_address_ = 0;
};

/// What a step's allocations come to.
struct Reserved {
  int64_t peak_allocated = 0;
  int64_t peak_reserved = 0;
  bool fits = true;  ///< false: the device was full, and the peaks are those until then
};

/// Run the events in order.
Reserved replay(const std::vector<ops::MemoryEvent>& events, CachingAllocator::Options options);

}  // namespace axial::train
