// SPDX-License-Identifier: Apache-2.0
// How attention is cut into units that run in any order on any thread, by the shape alone.
//
// Every leading dim and the key/value head is either own (a unit has one value of it) or walked (a unit goes
// over a range of it). Walked are the dims along which every dense bias and its gradient are broadcast, so
// that its tile stays close, and those along which the gradient of a dense bias is summed, so that no two
// units of a split add into one place. Called by the simd implementations; the reference walks everything.
#pragma once

#include <algorithm>
#include <functional>

#include "axial/kernels/attention/attention.h"

namespace axial::kernels::attention {

inline constexpr int64_t kMaxTile = 32;      ///< most queries of a tile on any target
inline constexpr int64_t kForwardKeys = 64;  ///< keys of a block
inline constexpr int64_t kBackwardKeys = 32;
inline constexpr int64_t kWidthStep = 8;   ///< padding of D where it counts rows of a register block
inline constexpr int64_t kPitchStep = 16;  ///< where it lies in lanes
inline constexpr int64_t kMaxSplits = 8;
inline constexpr int64_t kStreamBytes = int64_t{4}
                                        << 20;  ///< results above would push all else out of caches
inline constexpr int kPositionBits =
    20;  ///< of the low part of a position, exact in fp32 as is the high part
inline constexpr float kPositionStep = 1 << kPositionBits;
inline constexpr int kMaxDims = kMaxLeading + 1;

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

/// What a bias, or its gradient, varies over within one head of one leading element.
enum class BiasKind { kNone, kDense, kKey, kQuery };

/// One value of every leading dim, and a key/value head.
struct Place {
  int64_t leading[kMaxLeading] = {};
  int64_t kv_head = 0;
};

constexpr int64_t leading_offset(const int64_t* strides, const Place& place, int num_leading) {
  int64_t at = 0;
  for (int i = 0; i < num_leading; ++i) at += place.leading[i] * strides[i];
  return at;
}

constexpr int64_t leading_count(const AttentionSizes& sizes) {
  int64_t count = 1;
  for (int i = 0; i < sizes.num_leading; ++i) count *= sizes.leading[i];
  return count;
}

/// The leading element number `x`.
constexpr Place place_of(const AttentionSizes& sizes, int64_t x) {
  Place place;
  for (int i = sizes.num_leading - 1; i >= 0; --i) {
    place.leading[i] = x % sizes.leading[i];
    x /= sizes.leading[i];
  }
  return place;
}

/// The cut. A unit is (own index, split of the walk, part of the queries).
struct Plan {
  AttentionSizes sizes;
  int64_t group = 1;  ///< query heads per key/value head
  int num_own = 0, num_walked = 0;
  int own_dims[kMaxDims] = {}, walked_dims[kMaxDims] = {};  ///< kMaxLeading stands for the head
  int64_t own = 1, walk = 1;                                ///< products
  int64_t splits = 1;                                       ///< of the walk
  int64_t query_parts = 1, part = 0;                        ///< queries of a part, a multiple of kMaxTile
  int64_t stripe = 0;  ///< queries whose dense biases stay packed; 0: they are packed tile by tile
  BiasKind kinds[2] = {};
  bool summed[2] = {};    ///< a dense bias's gradient meets more than one head; else blocks are written out
  bool streamed = false;  ///< results go past the caches

  int64_t units() const { return own * splits * query_parts; }
  int64_t part_begin(int64_t index) const { return std::min(index * part, sizes.queries); }
  int64_t walk_begin(int64_t split) const { return walk * split / splits; }
  Place place(int64_t own_index, int64_t walk_index) const;
};

Plan plan_forward(const AttentionInputs& in);
Plan plan_backward(const AttentionBackward& params);

/// Compact strides of a bias's gradient: 0 where it is broadcast, dense otherwise; `count` elements in all.
struct BiasExtent {
  int64_t leading[kMaxLeading] = {};
  int64_t head = 0, query = 0, key = 0;
  int64_t count = 0;
};
BiasExtent extent_of(const AttentionBias& bias, const AttentionSizes& sizes);

/// Call body(unit, slot) for every unit; at most `num_threads` run at once, each with a slot of its own.
/// Which slot takes a unit is decided as they become free: a unit's result must not depend on it.
void for_units(int64_t units, int64_t num_threads, const ParallelFor& parallel_for,
               const std::function<void(int64_t unit, int64_t slot)>& body);

}  // namespace axial::kernels::attention
