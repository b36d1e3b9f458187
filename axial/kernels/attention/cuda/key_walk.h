// SPDX-License-Identifier: Apache-2.0
// A block that has kTile queries of one head walks the keys that they see: tiles of keys and values in shared
// memory, the next on its way while one is used. Used by forward.h and backward_queries.h.
#pragma once

#include "axial/kernels/attention/cuda/passes.h"
#include "axial/kernels/attention/cuda/products.h"

namespace axial::kernels::attention::cuda {

/// Shared memory begins at byte kBegin: keys and values of two stages, then what each query sees.
template <int kWidth, int kKeysOfTile, int kBegin, class Block>
class KeyWalk {
 public:
  static constexpr int kKeys = kKeysOfTile;
  static constexpr int kTileBytes = kKeys * kWidth * 2;
  static constexpr int kEnd = kBegin + 4 * kTileBytes + 2 * kTile * 8;

  /// Queries [first, first + count) of head `kv_head`'s group at `place`.
  AXIAL_DEVICE KeyWalk(Block& block, const AttentionInputs& in, const Place& place, int64_t kv_head,
                       int64_t first, int count)
      : block_(block),
        in_(in),
        first_(first),
        count_(count),
        k_at_(head_offset(in.k, in.sizes, place, kv_head)),
        v_at_(head_offset(in.v, in.sizes, place, kv_head)),
        sight_(sight_of(in, place)) {}

  /// Call body(first key, stage) for every tile that some query sees, in order; copies that were committed
  /// before have come by then.
  template <class Body>
  AXIAL_DEVICE void run(const Body& body) {
    const int64_t tiles = ceil_div(in_.sizes.keys, kKeys);
    int stage = 0;
    int64_t tile = find(0, tiles, stage);
    if (tile < tiles) load(tile, stage);
    while (tile < tiles) {
      const int64_t next = find(tile + 1, tiles, 1 - stage);
      if (next < tiles) {
        load(next, 1 - stage);
        block_.template wait<1>();
      } else {
        block_.template wait<0>();
      }
      block_.sync();
      body(tile * kKeys, stage);
      block_.sync();  // the next but one is loaded over this
      stage = 1 - stage;
      tile = next;
    }
    block_.template wait<0>();
  }

  AXIAL_DEVICE Halves<Block> keys(int stage) const { return tile_at(stage); }
  AXIAL_DEVICE Halves<Block> values(int stage) const { return tile_at(2 + stage); }

  /// What the two rows of this lane see of the tile (seen_of_lane).
  AXIAL_DEVICE void seen(int64_t first, int stage, uint32_t (&bits)[2]) {
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = block_.warp() * 16 + block_.lane() / 4 + 8 * r;
      uint64_t sees = row < count_ ? bits_between(0, keys_from(first)) : 0;
      if (!sees_all(in_)) sees = block_.load(seen_at(stage), row);
      bits[r] = seen_of_lane(sees, block_.lane());
    }
  }

 private:
  AXIAL_DEVICE Halves<Block> tile_at(int index) const {
    return block_.template array<uint16_t>(kBegin + index * kTileBytes, kKeys * kWidth);
  }
  AXIAL_DEVICE typename Block::template Array<uint64_t> seen_at(int stage) const {
    return block_.template array<uint64_t>(kBegin + 4 * kTileBytes + stage * kTile * 8, kTile);
  }
  AXIAL_DEVICE int64_t keys_from(int64_t first) const { return clamped(in_.sizes.keys - first, 0, kKeys); }

  // The first tile from `tile` on that some query sees; what each sees goes to shared memory.
  AXIAL_DEVICE int64_t find(int64_t tile, int64_t tiles, int stage) {
    for (; tile < tiles; ++tile) {
      const int64_t first = tile * kKeys;
      if (sees_all(in_)) {
        wanted_ = bits_between(0, keys_from(first));
        return tile;
      }
      if (block_.thread() < kTile) {
        const int i = block_.thread();
        block_.store(seen_at(stage), i, i < count_ ? seen_by(in_, sight_, first_ + i, first, kKeys) : 0);
      }
      block_.sync();
      wanted_ = block_.load(seen_at(stage), block_.lane()) |
                block_.load(seen_at(stage), block_.lane() + device::kWarp);
      AXIAL_UNROLL
      for (int mask = 1; mask < device::kWarp; mask *= 2) wanted_ |= block_.shuffle_xor(wanted_, mask);
      if (wanted_ != 0) return tile;
      block_.sync();  // all have read before the next is written
    }
    return tile;
  }

  // Keys that none of the queries sees may hold anything: zeros take their place.
  AXIAL_DEVICE void load(int64_t tile, int stage) {
    const int64_t first = tile * kKeys, count = keys_from(first);
    load_rows<kKeys, kWidth>(block_, keys(stage), rows_of(in_.k, in_.sizes, k_at_, first), count, wanted_);
    load_rows<kKeys, kWidth>(block_, values(stage), rows_of(in_.v, in_.sizes, v_at_, first), count, wanted_);
    block_.commit();
  }

  Block& block_;
  const AttentionInputs& in_;
  int64_t first_;  // query
  int count_;
  int64_t k_at_, v_at_;
  Sight sight_;
  uint64_t wanted_ = 0;  // keys of the tile that was found last
};

}  // namespace axial::kernels::attention::cuda
