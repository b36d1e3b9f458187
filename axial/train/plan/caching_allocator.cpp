// SPDX-License-Identifier: Apache-2.0
// Blocks by address and by size; segments, or ranges of pages.
#include "axial/train/plan/caching_allocator.h"

#include <algorithm>
#include <iterator>

#include "axial/core/check/check.h"

namespace axial::train {

namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kLeast = 512, kSmall = kMiB, kOwnSegment = 10 * kMiB, kOwnRound = 2 * kMiB;
// Between segments, so that none touches another; ranges begin far apart.
constexpr int64_t kGap = 4096, kRange = int64_t{1} << 60;

int64_t up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

CachingAllocator::Pool& CachingAllocator::pool_of(int64_t rounded) {
  return rounded <= kSmall ? small_ : large_;
}

void CachingAllocator::set_state(Pool& pool, Place block, State state) {
  if (block->second.state == State::kFree) pool.free.erase({block->second.size, block->first});
  block->second.state = state;
  if (state == State::kFree) pool.free.insert({block->second.size, block->first});
}

// The first `size` bytes of a block; what is behind them becomes a block in state `rest`.
CachingAllocator::Place CachingAllocator::cut(Pool& pool, Place block, int64_t size, State rest) {
  const State state = block->second.state;
  const int64_t left = block->second.size - size;
  if (left == 0) return block;
  set_state(pool, block, State::kUsed);
  block->second.size = size;
  const auto behind =
      pool.blocks.emplace(block->first + size, Block{left, block->second.segment, State::kUsed}).first;
  set_state(pool, behind, rest);
  set_state(pool, block, state);
  return block;
}

// With its neighbours of the same segment and state.
CachingAllocator::Place CachingAllocator::merge(Pool& pool, Place block) {
  const State state = block->second.state;
  const auto alike = [&](Place a, Place b) {
    return a->second.segment == b->second.segment && b->second.state == state && a->second.state == state &&
           a->first + a->second.size == b->first;
  };
  const auto join = [&](Place a, Place b) {
    const int64_t size = a->second.size + b->second.size;
    set_state(pool, b, State::kUsed);
    set_state(pool, a, State::kUsed);
    pool.blocks.erase(b);
    a->second.size = size;
    set_state(pool, a, state);
    return a;
  };
  if (const auto next = std::next(block); next != pool.blocks.end() && alike(block, next)) {
    block = join(block, next);
  }
  if (block != pool.blocks.begin() && alike(std::prev(block), block)) block = join(std::prev(block), block);
  return block;
}

// More of the device, after giving back what nobody uses where it is full.
bool CachingAllocator::reserve(int64_t bytes) {
  if (options_.capacity > 0 && reserved_ + bytes > options_.capacity) return false;
  reserved_ += bytes;
  peak_reserved_ = std::max(peak_reserved_, reserved_);
  return true;
}

void CachingAllocator::give_back(Pool& pool) {
  for (auto block = pool.blocks.begin(); block != pool.blocks.end(); ++block) {
    if (block->second.state != State::kFree) continue;
    if (!options_.expandable_segments) {
      const auto next = std::next(block);
      const bool ends = next == pool.blocks.end() || next->second.segment != block->second.segment;
      if (block->second.segment != block->first || !ends) continue;
      reserved_ -= block->second.size;
      set_state(pool, block, State::kUnmapped);  // its addresses are not used again
      continue;
    }
    const int64_t base = block->second.segment, last = block->first + block->second.size - base;
    const int64_t begin = base + up(block->first - base, pool.page);
    const int64_t end = base + last / pool.page * pool.page;
    if (begin >= end) continue;
    if (begin > block->first) block = std::next(cut(pool, block, begin - block->first, State::kFree));
    cut(pool, block, end - begin, State::kFree);
    set_state(pool, block, State::kUnmapped);
    reserved_ -= end - begin;
    block = merge(pool, block);
  }
}

std::optional<CachingAllocator::Place> CachingAllocator::grow_segment(Pool& pool, int64_t rounded) {
  const int64_t bytes = &pool == &small_        ? small_.page
                        : rounded < kOwnSegment ? large_.page
                                                : up(rounded, kOwnRound);
  if (!reserve(bytes)) return std::nullopt;
  const int64_t at = next_address_;
  next_address_ += bytes + kGap;
  const auto block = pool.blocks.emplace(at, Block{bytes, at, State::kUsed}).first;
  set_state(pool, block, State::kFree);
  return block;
}

// Map pages behind or between blocks, so that free ones and they make one that fits.
std::optional<CachingAllocator::Place> CachingAllocator::grow_range(Pool& pool, int64_t rounded) {
  const int64_t base = &pool == &small_ ? 0 : kRange;
  if (pool.blocks.empty()) pool.blocks.emplace(base, Block{kRange / 2, base, State::kUnmapped});
  for (auto first = pool.blocks.begin(); first != pool.blocks.end(); ++first) {
    if (first->second.state == State::kUsed) continue;
    const int64_t end = base + up(first->first + rounded - base, pool.page);  // whole pages are mapped
    int64_t at = first->first, mapped = 0;
    auto last = first;
    for (; last != pool.blocks.end() && last->second.state != State::kUsed && at < first->first + rounded;
         ++last) {
      const int64_t next = last->first + last->second.size;
      if (last->second.state == State::kUnmapped) mapped += std::min(next, end) - last->first;
      at = next;
    }
    if (at < first->first + rounded) continue;
    if (!reserve(mapped)) return std::nullopt;
    for (auto block = first; block != last && block->first < end; ++block) {
      if (block->second.state == State::kFree) continue;
      if (block->first + block->second.size > end) cut(pool, block, end - block->first, State::kUnmapped);
      set_state(pool, block, State::kFree);
    }
    auto block = first;
    while (std::next(block) != pool.blocks.end() && std::next(block)->second.state == State::kFree) {
      block = merge(pool, block);
    }
    return block;
  }
  return std::nullopt;
}

std::optional<CachingAllocator::Place> CachingAllocator::grow(Pool& pool, int64_t rounded) {
  return options_.expandable_segments ? grow_range(pool, rounded) : grow_segment(pool, rounded);
}

bool CachingAllocator::allocate(int64_t id, int64_t bytes) {
  const int64_t rounded = up(std::max<int64_t>(bytes, 1), kLeast);
  Pool& pool = pool_of(rounded);
  const auto fits = pool.free.lower_bound({rounded, -1});
  std::optional<Place> block;
  if (fits != pool.free.end()) block = pool.blocks.find(fits->second);
  if (!block) block = grow(pool, rounded);
  if (!block) {
    give_back(small_);
    give_back(large_);
    block = grow(pool, rounded);
  }
  if (!block) return false;
  if ((*block)->second.size - rounded >= pool.least_rest) cut(pool, *block, rounded, State::kFree);
  set_state(pool, *block, State::kUsed);
  used_[id] = {&pool, (*block)->first};
  allocated_ += (*block)->second.size;
  peak_allocated_ = std::max(peak_allocated_, allocated_);
  return true;
}

void CachingAllocator::free(int64_t id) {
  const auto found = used_.find(id);
  AXIAL_CHECK(found != used_.end(), "caching_allocator", "allocation {}; expected one that is there", id);
  auto [pool, address] = found->second;
  used_.erase(found);
  const auto block = pool->blocks.find(address);
  allocated_ -= block->second.size;
  set_state(*pool, block, State::kFree);
  merge(*pool, block);
}

Reserved replay(const std::vector<ops::MemoryEvent>& events, CachingAllocator::Options options) {
  CachingAllocator allocator(options);
  Reserved out;
  for (const ops::MemoryEvent& event : events) {
    if (event.bytes > 0 && !allocator.allocate(event.allocation, event.bytes)) {
      out.fits = false;
      break;
    }
    if (event.bytes < 0) allocator.free(event.allocation);
  }
  out.peak_allocated = allocator.peak_allocated();
  out.peak_reserved = allocator.peak_reserved();
  return out;
}

}  // namespace axial::train
