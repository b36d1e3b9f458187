// SPDX-License-Identifier: Apache-2.0
// Attention forward on the matrix units of CUDA devices from capability 8.0 on: a block has kTile queries of
// one head and walks the keys in tiles with online softmax. For float16 and bfloat16; P is rounded to them,
// sums are fp32. Called by launch.cu, and by the tests on an emulated block. Dao et al., 2022 and 2023.
#pragma once

#include "axial/kernels/attention/cuda/key_walk.h"

namespace axial::kernels::attention::cuda {

template <class T, int kWidth, class Block>
class Forward {
 public:
  static constexpr int kQueryBytes = kTile * kWidth * 2;
  using Walk = KeyWalk<kWidth, forward_keys(kWidth), kQueryBytes, Block>;
  static constexpr int kSharedBytes = Walk::kEnd;
  static int64_t blocks(const AttentionForward& p) {
    return leading_count(p.in.sizes) * p.in.sizes.heads * ceil_div(p.in.sizes.queries, kTile);
  }

  AXIAL_DEVICE Forward(Block& block, const AttentionForward& p)
      : block_(block), p_(p), row_(block.index() / ceil_div(p.in.sizes.queries, kTile)) {
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
    block_.commit();
    const HeadTerms terms = terms_of(p_.in, place, head);
    const int64_t out = head_offset(p_.out, s, place, head);
    Walk walk(block_, p_.in, place, head / (s.heads / s.kv_heads), first_, count_);
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      most_[r] = device::minus_infinity();
      sum_[r] = 0;
    }
    clear(out_);
    walk.run([&](int64_t first, int stage) {
      float logits[Walk::kKeys / 8][4];
      multiply_rows<T, kWidth>(block_, logits, queries(), walk.keys(stage));
      uint32_t seen[2];
      walk.seen(first, stage, seen);
      finish_logits<false>(logits, p_.in, terms, head, first_ + row_of(0),
                           first + device::Accumulator::col(block_.lane(), 0), seen);
      update_softmax(logits);
      multiply_tile<T, kWidth>(block_, out_, logits, walk.values(stage));
    });
    write(out);
  }

 private:
  AXIAL_DEVICE Halves<Block> queries() const { return block_.template array<uint16_t>(0, kTile * kWidth); }
  AXIAL_DEVICE int row_of(int r) const { return block_.warp() * 16 + block_.lane() / 4 + r * 8; }

  // Logits become exp(logit - largest); what was summed so far shrinks where the largest grew.
  AXIAL_DEVICE void update_softmax(float (&s)[Walk::kKeys / 8][4]) {
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      float most = most_[r];
      AXIAL_UNROLL
      for (auto& tile : s) most = device::largest(most, device::largest(tile[2 * r], tile[2 * r + 1]));
      most = largest_of_row(block_, most);
      const float shift = most == device::minus_infinity() ? 0.0f : most;  // nothing seen: exp(-inf - 0) = 0
      const float shrink = device::exp2_fast((most_[r] - shift) * kLog2e);
      most_[r] = most;
      float sum = 0;
      AXIAL_UNROLL
      for (auto& tile : s) {
        AXIAL_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          tile[e] = device::exp2_fast((tile[e] - shift) * kLog2e);
          sum += tile[e];
        }
      }
      sum_[r] = sum_[r] * shrink + sum;
      AXIAL_UNROLL
      for (auto& tile : out_) {
        tile[2 * r] *= shrink;
        tile[2 * r + 1] *= shrink;
      }
    }
  }

  AXIAL_DEVICE void write(int64_t out) {
    const AttentionSizes& s = p_.in.sizes;
    float inverse[2];
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      sum_[r] = sum_of_row(block_, sum_[r]);
      inverse[r] = sum_[r] == 0 ? 0.0f : 1.0f / sum_[r];
    }
    write_rows<kWidth>(block_, out_, inverse, p_.out, out, first_, count_, s.width);
    if (p_.statistics == nullptr || block_.lane() % 4 != 0) return;
    AXIAL_UNROLL
    for (int r = 0; r < 2; ++r) {
      if (row_of(r) >= count_) continue;
      float* to = static_cast<float*>(p_.statistics) + (row_ * s.queries + first_ + row_of(r)) * 2;
      to[0] = most_[r];
      to[1] = sum_[r];
    }
  }

  Block& block_;
  const AttentionForward& p_;
  int64_t row_;    // heads over the leading dims
  int64_t first_;  // query
  int count_;      // of queries
  float out_[kWidth / 8][4];
  float most_[2], sum_[2];
};

}  // namespace axial::kernels::attention::cuda
