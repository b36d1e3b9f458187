// SPDX-License-Identifier: Apache-2.0
// The pass of attention's backward that owns dense biases: a block has kTile queries by a tile of keys of the
// gradient of one bias and sums dS of all heads that add to it, or of a share of them, in order. Called by
// launch.cu and the tests.
#pragma once

#include "axial/kernels/attention/cuda/backward.h"
#include "axial/kernels/attention/cuda/cut.h"

namespace axial::kernels::attention::cuda {

/// Which gradient, and how its sums are shared out.
struct BiasPass {
  int bias = 0;
  Cut cut;
  int64_t splits = 1;  ///< of the summed heads; above 1 the sums go to scratch, [splits, own, I, J]
};

template <class T, int kWidth, class Block>
class BackwardBias {
 public:
  static constexpr int kKeys = kBiasPassKeys;
  static constexpr int kQueryBytes = kTile * kWidth * 2, kKeyBytes = kKeys * kWidth * 2;
  static constexpr int kSeenAt = 2 * kQueryBytes + 2 * kKeyBytes;
  static constexpr int kSharedBytes = kSeenAt + kTile * 8;
  static int64_t blocks(const AttentionBackward& p, const BackwardScratch&, const BiasPass& pass) {
    return pass.cut.own * pass.splits * ceil_div(p.in.sizes.queries, kTile) *
           ceil_div(p.in.sizes.keys, kKeys);
  }

  AXIAL_DEVICE BackwardBias(Block& block, const AttentionBackward& p, const BackwardScratch& scratch,
                            const BiasPass& pass)
      : block_(block), p_(p), scratch_(scratch), pass_(pass) {
    const AttentionSizes& s = p.in.sizes;
    int64_t index = block.index();
    first_key_ = index % ceil_div(s.keys, kKeys) * kKeys;
    index /= ceil_div(s.keys, kKeys);
    first_query_ = index % ceil_div(s.queries, kTile) * kTile;
    index /= ceil_div(s.queries, kTile);
    split_ = index % pass.splits;
    own_ = index / pass.splits;
    queries_ = static_cast<int>(s.queries - first_query_ < kTile ? s.queries - first_query_ : kTile);
    keys_ = static_cast<int>(s.keys - first_key_ < kKeys ? s.keys - first_key_ : kKeys);
  }

  AXIAL_DEVICE void run() {
    clear(sum_);
    const int64_t begin = pass_.cut.summed * split_ / pass_.splits;
    const int64_t end = pass_.cut.summed * (split_ + 1) / pass_.splits;
    for (int64_t i = begin; i < end; ++i) add_head(head_at(pass_.cut, p_.in.sizes, own_, i));
    write();
  }

 private:
  AXIAL_DEVICE Halves<Block> query_tile(int index) const {
    return block_.template array<uint16_t>(index * kQueryBytes, kTile * kWidth);
  }
  AXIAL_DEVICE Halves<Block> key_tile(int index) const {
    return block_.template array<uint16_t>(2 * kQueryBytes + index * kKeyBytes, kKeys * kWidth);
  }
  AXIAL_DEVICE typename Block::template Array<uint64_t> seen() const {
    return block_.template array<uint64_t>(kSeenAt, kTile);
  }
  AXIAL_DEVICE int row_of_lane(int r) const { return block_.warp() * 16 + block_.lane() / 4 + r * 8; }

  // What the queries see of the tile; the keys that one of them sees are wanted.
  AXIAL_DEVICE uint64_t find(const Place& place) {
    if (sees_all(p_.in)) return bits_between(0, keys_);
    const int i = block_.thread();
    if (i < kTile) {
      block_.store(
          seen(), i,
          i < queries_ ? seen_by(p_.in, sight_of(p_.in, place), first_query_ + i, first_key_, kKeys) : 0);
    }
    block_.sync();
    uint64_t any = block_.load(seen(), block_.lane()) | block_.load(seen(), block_.lane() + device::kWarp);
    AXIAL_UNROLL
    for (int mask = 1; mask < device::kWarp; mask *= 2) any |= block_.shuffle_xor(any, mask);
    return any;
  }

  AXIAL_DEVICE void add_head(const HeadPlace& at) {
    const AttentionSizes& s = p_.in.sizes;
    const int64_t kv_head = at.head / (s.heads / s.kv_heads);
    const auto rows = [&](const AttentionTensor& t, int64_t head, int64_t first) {
      return rows_of(t, s, head_offset(t, s, at.place, head), first);
    };
    block_.sync();  // all are done with the tiles before
    const uint64_t wanted = find(at.place);
    if (wanted == 0) return;
    load_rows<kTile, kWidth>(block_, query_tile(0), rows(p_.in.q, at.head, first_query_), queries_,
                             ~uint64_t{0});
    load_rows<kTile, kWidth>(block_, query_tile(1), rows(p_.dout, at.head, first_query_), queries_,
                             ~uint64_t{0});
    load_rows<kKeys, kWidth>(block_, key_tile(0), rows(p_.in.k, kv_head, first_key_), keys_, wanted);
    load_rows<kKeys, kWidth>(block_, key_tile(1), rows(p_.in.v, kv_head, first_key_), keys_, wanted);
    block_.commit();
    block_.template wait<0>();
    block_.sync();
    add_tile(at);
  }

  AXIAL_DEVICE void add_tile(const HeadPlace& at) {
    QueryRow rows[2];
    uint32_t sees[2];
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int i = row_of_lane(r);
      const bool inside = i < queries_;
      rows[r] =
          inside ? query_row(p_, scratch_, row_of(at, p_.in.sizes) * p_.in.sizes.queries + first_query_ + i)
                 : QueryRow{0, 0, 0};
      uint64_t keys = inside ? bits_between(0, keys_) : 0;
      if (!sees_all(p_.in)) keys = block_.load(seen(), i);
      sees[r] = seen_of_lane(keys, block_.lane());
    }
    float p[kKeys / 8][4], ds[kKeys / 8][4];
    multiply_rows<T, kWidth>(block_, p, query_tile(0), key_tile(0));
    finish_logits<false>(p, p_.in, terms_of(p_.in, at.place, at.head), at.head, first_query_ + row_of_lane(0),
                         first_key_ + device::Accumulator::col(block_.lane(), 0), sees);
    multiply_rows<T, kWidth>(block_, ds, query_tile(1), key_tile(1));
    AXIAL_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      AXIAL_UNROLL
      for (int e = 0; e < 4; ++e) {
        differentiate(p[n][e], ds[n][e], rows[e / 2], (sees[e / 2] >> (2 * n + e % 2) & 1) != 0);
        sum_[n][e] += ds[n][e];
      }
    }
  }

  AXIAL_DEVICE void write() {
    const AttentionSizes& s = p_.in.sizes;
    const AttentionBias& to = p_.dbias[pass_.bias];
    const int64_t base = offset_of(to, s, head_at(pass_.cut, s, own_, 0), 0, 0);
    float* part = scratch_.parts + (split_ * pass_.cut.own + own_) * s.queries * s.keys;
    AXIAL_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      AXIAL_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int i = row_of_lane(e / 2), j = n * 8 + device::Accumulator::col(block_.lane(), e);
        if (i >= queries_ || j >= keys_) continue;
        const int64_t query = first_query_ + i, key = first_key_ + j;
        if (pass_.splits > 1) {
          part[query * s.keys + key] = sum_[n][e];
        } else {
          device::store_from_float(to.data, to.dtype, base + query * to.query + key * to.key, sum_[n][e]);
        }
      }
    }
  }

  Block& block_;
  const AttentionBackward& p_;
  const BackwardScratch& scratch_;
  const BiasPass& pass_;
  int64_t own_, split_, first_query_, first_key_;
  int queries_, keys_;
  float sum_[kKeys / 8][4];
};

}  // namespace axial::kernels::attention::cuda
