// SPDX-License-Identifier: Apache-2.0
// The pass of attention's backward that owns keys: a block has kTile of one key/value head, walks the queries
// of the heads that share it, and writes dK, dV, and the sums of dS over queries that a bias by key takes.
// Its tiles are turned: rows are keys, columns queries. Called by launch.cu and the tests.
#pragma once

#include "axial/kernels/attention/cuda/backward.h"

namespace axial::kernels::attention::cuda {

template <class T, int kWidth, class Block>
class BackwardKeys {
 public:
  static constexpr int kQueries = keys_pass_queries(kWidth);
  static constexpr int kKeyBytes = kTile * kWidth * 2, kQueryBytes = kQueries * kWidth * 2;
  static constexpr int kRowsAt = 2 * kKeyBytes + 2 * kQueryBytes;  // shift, inverse, delta of a query
  static constexpr int kSeenAt = kRowsAt + kTile * 12;
  static constexpr int kSharedBytes = kSeenAt + kTile * 8;
  static int64_t blocks(const AttentionBackward& p, const BackwardScratch&) {
    return leading_count(p.in.sizes) * p.in.sizes.kv_heads * ceil_div(p.in.sizes.keys, kTile);
  }

  AXIAL_DEVICE BackwardKeys(Block& block, const AttentionBackward& p, const BackwardScratch& scratch)
      : block_(block), p_(p), scratch_(scratch) {
    const AttentionSizes& s = p.in.sizes;
    first_ = block.index() % ceil_div(s.keys, kTile) * kTile;
    count_ = static_cast<int>(s.keys - first_ < kTile ? s.keys - first_ : kTile);
    const int64_t unit = block.index() / ceil_div(s.keys, kTile);
    kv_head_ = unit % s.kv_heads;
    x_ = unit / s.kv_heads;
  }

  AXIAL_DEVICE void run() {
    const AttentionSizes& s = p_.in.sizes;
    const Place place = place_of(s, x_);
    const uint64_t all = ~uint64_t{0};
    load_rows<kTile, kWidth>(
        block_, keys(), rows_of(p_.in.k, s, head_offset(p_.in.k, s, place, kv_head_), first_), count_, all);
    load_rows<kTile, kWidth>(
        block_, values(), rows_of(p_.in.v, s, head_offset(p_.in.v, s, place, kv_head_), first_), count_, all);
    block_.commit();
    clear(dk_);
    clear(dv_);
    const int64_t group = s.heads / s.kv_heads;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head) walk_head(place, head);
    block_.template wait<0>();
    const float scale = static_cast<float>(p_.in.scale), scales[2] = {scale, scale}, ones[2] = {1, 1};
    if (p_.dk.data != nullptr) {
      write_rows<kWidth>(block_, dk_, scales, p_.dk, head_offset(p_.dk, s, place, kv_head_), first_, count_,
                         s.width);
    }
    if (p_.dv.data != nullptr) {
      write_rows<kWidth>(block_, dv_, ones, p_.dv, head_offset(p_.dv, s, place, kv_head_), first_, count_,
                         s.width);
    }
  }

 private:
  AXIAL_DEVICE Halves<Block> keys() const { return block_.template array<uint16_t>(0, kTile * kWidth); }
  AXIAL_DEVICE Halves<Block> values() const {
    return block_.template array<uint16_t>(kKeyBytes, kTile * kWidth);
  }
  AXIAL_DEVICE Halves<Block> queries() const {
    return block_.template array<uint16_t>(2 * kKeyBytes, kQueries * kWidth);
  }
  AXIAL_DEVICE Halves<Block> gradients() const {
    return block_.template array<uint16_t>(2 * kKeyBytes + kQueryBytes, kQueries * kWidth);
  }
  AXIAL_DEVICE typename Block::template Array<float> rows() const {
    return block_.template array<float>(kRowsAt, kTile * 3);
  }
  AXIAL_DEVICE typename Block::template Array<uint64_t> seen() const {
    return block_.template array<uint64_t>(kSeenAt, kTile);
  }
  AXIAL_DEVICE int row_of(int r) const { return block_.warp() * 16 + block_.lane() / 4 + r * 8; }

  AXIAL_DEVICE void walk_head(const Place& place, int64_t head) {
    const AttentionSizes& s = p_.in.sizes;
    const HeadTerms terms = terms_of(p_.in, place, head);
    const Sight sight = sight_of(p_.in, place);
    const int64_t q = head_offset(p_.in.q, s, place, head), dout = head_offset(p_.dout, s, place, head);
    float sums[2] = {0, 0};
    for (int64_t first = 0; first < s.queries; first += kQueries) {
      const int count = static_cast<int>(s.queries - first < kQueries ? s.queries - first : kQueries);
      block_.sync();  // all are done with the tile before
      if (!find(sight, head, first, count)) continue;
      load_rows<kQueries, kWidth>(block_, queries(), rows_of(p_.in.q, s, q, first), count, wanted_);
      load_rows<kQueries, kWidth>(block_, gradients(), rows_of(p_.dout, s, dout, first), count, wanted_);
      block_.commit();
      block_.template wait<0>();
      block_.sync();
      add_tile(terms, head, first, count, sums);
    }
    write_sums(head, sums);
  }

  // Whether a query of the tile sees a key of the block; what each sees, and its row, go to shared memory.
  // Those that see none give no gradient, whatever their rows hold: zeros take their place.
  AXIAL_DEVICE bool find(const Sight& sight, int64_t head, int64_t first, int count) {
    const int i = block_.thread();
    bool gives = false;
    if (i < kQueries) {
      const int64_t row = (x_ * p_.in.sizes.heads + head) * p_.in.sizes.queries + first + i;
      const QueryRow query = i < count ? query_row(p_, scratch_, row) : QueryRow{0, 0, 0};
      block_.store(rows(), 3 * i, query.shift);
      block_.store(rows(), 3 * i + 1, query.inverse);
      block_.store(rows(), 3 * i + 2, query.delta);
      gives = query.inverse != 0;
    }
    if (i < kTile) {
      block_.store(seen(), i, gives ? seen_by(p_.in, sight, first + i, first_, kTile) : 0);
    }
    block_.sync();
    const int lane = block_.lane();
    wanted_ = static_cast<uint64_t>(block_.load(seen(), lane) != 0) << lane |
              static_cast<uint64_t>(block_.load(seen(), lane + device::kWarp) != 0) << (lane + device::kWarp);
    AXIAL_UNROLL
    for (int mask = 1; mask < device::kWarp; mask *= 2) wanted_ |= block_.shuffle_xor(wanted_, mask);
    return wanted_ != 0;
  }

  // Of the queries that this lane holds, those that see its two keys, as bits of seen_of_lane().
  AXIAL_DEVICE void seen_of_keys(int count, uint32_t (&bits)[2]) {
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      bits[r] = row_of(r) < count_ ? seen_of_lane(bits_between(0, count), block_.lane()) : 0;
    }
    if (sees_all(p_.in)) return;
    AXIAL_UNROLL
    for (int n = 0; n < kQueries / 8; ++n) {
      AXIAL_UNROLL
      for (int c = 0; c < 2; ++c) {
        const uint64_t keys = block_.load(seen(), n * 8 + device::Accumulator::col(block_.lane(), c));
        AXIAL_UNROLL
        for (int r = 0; r < 2; ++r) {
          if ((keys >> row_of(r) & 1) == 0) bits[r] &= ~(1u << (2 * n + c));
        }
      }
    }
  }

  AXIAL_DEVICE void add_tile(const HeadTerms& terms, int64_t head, int64_t first, int count,
                             float (&sums)[2]) {
    float p[kQueries / 8][4], ds[kQueries / 8][4];
    uint32_t sees[2];
    seen_of_keys(count, sees);
    multiply_rows<T, kWidth>(block_, p, keys(), queries());
    finish_logits<true>(p, p_.in, terms, head, first_ + row_of(0),
                        first + device::Accumulator::col(block_.lane(), 0), sees);
    multiply_rows<T, kWidth>(block_, ds, values(), gradients());
    AXIAL_UNROLL
    for (int n = 0; n < kQueries / 8; ++n) {
      AXIAL_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int at = 3 * (n * 8 + device::Accumulator::col(block_.lane(), c));
        const QueryRow query = {block_.load(rows(), at), block_.load(rows(), at + 1),
                                block_.load(rows(), at + 2)};
        AXIAL_UNROLL
        for (int r = 0; r < 2; ++r) {
          differentiate(p[n][2 * r + c], ds[n][2 * r + c], query, (sees[r] >> (2 * n + c) & 1) != 0);
          sums[r] += ds[n][2 * r + c];
        }
      }
    }
    multiply_tile<T, kWidth>(block_, dv_, p, gradients());
    multiply_tile<T, kWidth>(block_, dk_, ds, queries());
  }

  AXIAL_DEVICE void write_sums(int64_t head, const float (&sums)[2]) {
    if (scratch_.by_key == nullptr) return;
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float sum = sum_of_row(block_, sums[r]);
      if (row_of(r) >= count_ || block_.lane() % 4 != 0) continue;
      scratch_.by_key[(x_ * p_.in.sizes.heads + head) * p_.in.sizes.keys + first_ + row_of(r)] = sum;
    }
  }

  Block& block_;
  const AttentionBackward& p_;
  const BackwardScratch& scratch_;
  int64_t x_, kv_head_;
  int64_t first_;        // key
  int count_;            // of keys
  uint64_t wanted_ = 0;  // queries of the tile that see a key
  float dk_[kWidth / 8][4], dv_[kWidth / 8][4];
};

}  // namespace axial::kernels::attention::cuda
