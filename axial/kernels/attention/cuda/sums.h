// SPDX-License-Identifier: Apache-2.0
// Around the passes of attention's backward on CUDA: delta before them, and after them the gradients of
// biases from sums by key, by query, or over shares of heads, added in order. Run by run.h.
#pragma once

#include "axial/kernels/attention/cuda/backward.h"
#include "axial/kernels/attention/cuda/backward_bias.h"

namespace axial::kernels::attention::cuda {

/// delta[row] = sum over columns of dO O, a warp per row of queries of heads of leading elements.
template <class Block>
class SumDelta {
 public:
  static constexpr int kSharedBytes = 0;
  static int64_t blocks(const AttentionBackward& p, const BackwardScratch&) {
    return ceil_div(leading_count(p.in.sizes) * p.in.sizes.heads * p.in.sizes.queries,
                    kThreads / device::kWarp);
  }
  AXIAL_DEVICE SumDelta(Block& block, const AttentionBackward& p, const BackwardScratch& scratch)
      : block_(block), p_(p), delta_(scratch.delta) {}

  AXIAL_DEVICE void run() {
    const AttentionSizes& s = p_.in.sizes;
    const int64_t row = block_.index() * (kThreads / device::kWarp) + block_.warp();
    const bool inside = row < leading_count(s) * s.heads * s.queries;
    float sum = 0;
    if (inside) {
      const int64_t unit = row / s.queries, query = row % s.queries, head = unit % s.heads;
      const Place place = place_of(s, unit / s.heads);
      const int64_t out = head_offset(p_.out, s, place, head) + query * p_.out.row;
      const int64_t dout = head_offset(p_.dout, s, place, head) + query * p_.dout.row;
      for (int64_t c = block_.lane(); c < s.width; c += device::kWarp) {
        sum += load_as_float(p_.out.data, p_.out.dtype, out + c * p_.out.col) *
               load_as_float(p_.dout.data, p_.dout.dtype, dout + c * p_.dout.col);
      }
    }
    AXIAL_UNROLL
    for (int mask = device::kWarp / 2; mask > 0; mask /= 2) sum += block_.shuffle_xor(sum, mask);
    if (inside && block_.lane() == 0) delta_[row] = sum;
  }

 private:
  Block& block_;
  const AttentionBackward& p_;
  float* delta_;
};

/// A gradient of a bias and the sums that it is added up from.
struct HeadSums {
  AttentionBias to;
  Cut cut;
  const float* sums = nullptr;  ///< [X, H, J] by key, else [X, H, I]
  bool by_key = false;
};

/// The gradient of a bias that does not vary over both queries and keys, an element a thread; queries or keys
/// too are summed where its stride is 0.
template <class Block>
class SumHeads {
 public:
  static constexpr int kSharedBytes = 0;
  static int64_t blocks(const AttentionSizes& s, const HeadSums& h) {
    return ceil_div(h.cut.own * kept(s, h), kThreads);
  }
  AXIAL_DEVICE SumHeads(Block& block, const AttentionSizes& s, const HeadSums& h)
      : block_(block), s_(s), h_(h) {}

  AXIAL_DEVICE void run() {
    const int64_t items = h_.by_key ? s_.keys : s_.queries, count = kept(s_, h_);
    const int64_t element = block_.index() * kThreads + block_.thread();
    if (element >= h_.cut.own * count) return;
    const int64_t own = element / count, first = element % count, last = count == items ? first + 1 : items;
    float sum = 0;
    for (int64_t i = 0; i < h_.cut.summed; ++i) {
      const float* row = h_.sums + row_of(head_at(h_.cut, s_, own, i), s_) * items;
      for (int64_t item = first; item < last; ++item) sum += row[item];
    }
    const HeadPlace at = head_at(h_.cut, s_, own, 0);
    device::store_from_float(h_.to.data, h_.to.dtype,
                             offset_of(h_.to, s_, at, h_.by_key ? 0 : first, h_.by_key ? first : 0), sum);
  }

 private:
  static constexpr int64_t kept(const AttentionSizes& s, const HeadSums& h) {
    if (h.by_key) return h.to.key == 0 ? 1 : s.keys;
    return h.to.query == 0 ? 1 : s.queries;
  }

  Block& block_;
  const AttentionSizes& s_;
  const HeadSums& h_;
};

/// The gradient of a dense bias from its parts, an element a thread.
template <class Block>
class SumParts {
 public:
  static constexpr int kSharedBytes = 0;
  static int64_t blocks(const AttentionBackward& p, const BackwardScratch&, const BiasPass& pass) {
    return ceil_div(pass.cut.own * p.in.sizes.queries * p.in.sizes.keys, kThreads);
  }
  AXIAL_DEVICE SumParts(Block& block, const AttentionBackward& p, const BackwardScratch& scratch,
                        const BiasPass& pass)
      : block_(block), p_(p), parts_(scratch.parts), pass_(pass) {}

  AXIAL_DEVICE void run() {
    const AttentionSizes& s = p_.in.sizes;
    const int64_t tile = s.queries * s.keys, count = pass_.cut.own * tile;
    const int64_t element = block_.index() * kThreads + block_.thread();
    if (element >= count) return;
    float sum = 0;
    for (int64_t i = 0; i < pass_.splits; ++i) sum += parts_[i * count + element];
    const int64_t query = element % tile / s.keys, key = element % s.keys;
    const AttentionBias& to = p_.dbias[pass_.bias];
    device::store_from_float(to.data, to.dtype,
                             offset_of(to, s, head_at(pass_.cut, s, element / tile, 0), query, key), sum);
  }

 private:
  Block& block_;
  const AttentionBackward& p_;
  const float* parts_;
  const BiasPass& pass_;
};

}  // namespace axial::kernels::attention::cuda
