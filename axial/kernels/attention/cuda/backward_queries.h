// SPDX-License-Identifier: Apache-2.0
// The pass of attention's backward that owns queries: a block has kTile of one head, walks the keys that they
// see, and writes dQ, and the sums of dS over keys that a bias by query takes. Called by launch.cu and the
// tests.
#pragma once

#include "axial/kernels/attention/cuda/backward.h"

namespace axial::kernels::attention::cuda {

template <class T, int kWidth, class Block>
class BackwardQueries {
 public:
  static constexpr int kQueryBytes = kTile * kWidth * 2;
  using Walk = KeyWalk<kWidth, queries_pass_keys(kWidth), 2 * kQueryBytes, Block>;
  static constexpr int kSharedBytes = Walk::kEnd;
  static int64_t blocks(const AttentionBackward& p, const BackwardScratch&) {
    return leading_count(p.in.sizes) * p.in.sizes.heads * ceil_div(p.in.sizes.queries, kTile);
  }

  AXIAL_DEVICE BackwardQueries(Block& block, const AttentionBackward& p, const BackwardScratch& scratch)
      : block_(block), p_(p), scratch_(scratch), row_(block.index() / ceil_div(p.in.sizes.queries, kTile)) {
    const AttentionSizes& s = p.in.sizes;
    first_ = block.index() % ceil_div(s.queries, kTile) * kTile;
    count_ = static_cast<int>(s.queries - first_ < kTile ? s.queries - first_ : kTile);
  }

  AXIAL_DEVICE void run() {
    const AttentionSizes& s = p_.in.sizes;
    const int64_t head = row_ % s.heads;
    const Place place = place_of(s, row_ / s.heads);
    load_rows<kTile, kWidth>(block_, queries(),
                             rows_of(p_.in.q, s, head_offset(p_.in.q, s, place, head), first_), count_,
                             ~uint64_t{0});
    load_rows<kTile, kWidth>(block_, gradients(),
                             rows_of(p_.dout, s, head_offset(p_.dout, s, place, head), first_), count_,
                             ~uint64_t{0});
    block_.commit();
    const HeadTerms terms = terms_of(p_.in, place, head);
    Walk walk(block_, p_.in, place, head / (s.heads / s.kv_heads), first_, count_);
    QueryRow rows[2];
    float sums[2] = {0, 0}, dq[kWidth / 8][4];
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      rows[r] = row_of(r) < count_ ? query_row(p_, scratch_, row_ * s.queries + first_ + row_of(r))
                                   : QueryRow{0, 0, 0};
    }
    clear(dq);
    walk.run([&](int64_t first, int stage) {
      float p[Walk::kKeys / 8][4], ds[Walk::kKeys / 8][4];
      multiply_rows<T, kWidth>(block_, p, queries(), walk.keys(stage));
      uint32_t seen[2];
      walk.seen(first, stage, seen);
      finish_logits<false>(p, p_.in, terms, head, first_ + row_of(0),
                           first + device::Accumulator::col(block_.lane(), 0), seen);
      multiply_rows<T, kWidth>(block_, ds, gradients(), walk.values(stage));
      AXIAL_UNROLL
      for (int n = 0; n < Walk::kKeys / 8; ++n) {
        AXIAL_UNROLL
        for (int e = 0; e < 4; ++e) {
          differentiate(p[n][e], ds[n][e], rows[e / 2], (seen[e / 2] >> (2 * n + e % 2) & 1) != 0);
          sums[e / 2] += ds[n][e];
        }
      }
      multiply_tile<T, kWidth>(block_, dq, ds, walk.keys(stage));
    });
    const float scale = static_cast<float>(p_.in.scale), scales[2] = {scale, scale};
    if (p_.dq.data != nullptr) {
      write_rows<kWidth>(block_, dq, scales, p_.dq, head_offset(p_.dq, s, place, head), first_, count_,
                         s.width);
    }
    write_sums(sums);
  }

 private:
  AXIAL_DEVICE Halves<Block> queries() const { return block_.template array<uint16_t>(0, kTile * kWidth); }
  AXIAL_DEVICE Halves<Block> gradients() const {
    return block_.template array<uint16_t>(kQueryBytes, kTile * kWidth);
  }
  AXIAL_DEVICE int row_of(int r) const { return block_.warp() * 16 + block_.lane() / 4 + r * 8; }

  AXIAL_DEVICE void write_sums(const float (&sums)[2]) {
    if (scratch_.by_query == nullptr) return;
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float sum = sum_of_row(block_, sums[r]);
      if (row_of(r) < count_ && block_.lane() % 4 == 0) {
        scratch_.by_query[row_ * p_.in.sizes.queries + first_ + row_of(r)] = sum;
      }
    }
  }

  Block& block_;
  const AttentionBackward& p_;
  const BackwardScratch& scratch_;
  int64_t row_;    // heads over the leading dims
  int64_t first_;  // query
  int count_;      // of queries
};

}  // namespace axial::kernels::attention::cuda
