// SPDX-License-Identifier: Apache-2.0
// The products of attention on vectors: what forward_inl.h and backward_inl.h ask of an engine, done by the
// register blocks of tile_inl.h. amx_inl.h does the same on matrix tiles. Included once per target.

#if defined(AXIAL_KERNELS_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_PRODUCTS_INL_H_
#undef AXIAL_KERNELS_ATTENTION_PRODUCTS_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/buffers.h"
#include "axial/kernels/attention/masking.h"
#include "axial/kernels/attention/tile_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

using attention::BackwardBuffers;
using attention::ForwardBuffers;
using attention::Interval;
using attention::kBackwardKeys;
using attention::kForwardKeys;

/// Engine on vectors. Keys and queries are used as they are packed: nothing is prepared.
struct SimdProducts {
  struct Session {};  ///< lives as long as a thread works on a unit

  /// Logits of the block of keys from `key` on, kRows keys at a time: block = q . k, from key + r0 on.
  class Logits {
   public:
    HWY_INLINE Logits(const ForwardBuffers& b, int64_t key, float*)
        : k_(b.k + key * b.width), q_(b.q), width_(b.width) {}
    HWY_INLINE void operator()(Block<kVectors>& block, int64_t r0) const {
      multiply_width<kForwardUnrolled>(block, k_ + r0 * width_, width_, q_, kQueries, width_);
    }

   private:
    const float *k_, *q_;
    int64_t width_;
  };

  static HWY_INLINE void prepare_keys(const ForwardBuffers&, const Interval&) {}
  static HWY_INLINE void prepare_queries(const ForwardBuffers&) {}
  /// weights[key][query] = exp(score - shift); returns its sums. A block is summed by itself, in four chains:
  /// long running sums round more.
  static HWY_INLINE void exponentials(const ForwardBuffers& b, const Floats (&shift)[kVectors],
                                      Floats (&sums)[kVectors]) {
    constexpr int kChains = 4;
    float* const scores = b.scores;  // a local: stores of vectors may alias members
    Floats chains[kChains][kVectors];
    for (auto& chain : chains) std::fill(chain, chain + kVectors, hn::Zero(FloatTag()));
    for (int64_t key = 0; key < kForwardKeys; key += kChains) {
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) {
        for (int v = 0; v < kVectors; ++v) {
          float* at = scores + (key + i) * kQueries + v * kLanes;
          const Floats p = exp_of_negative(hn::Sub(load_floats(at), shift[v]));
          chains[i][v] = hn::Add(chains[i][v], p);
          store_floats(p, at);
        }
      }
    }
    for (int v = 0; v < kVectors; ++v)
      sums[v] = hn::Add(hn::Add(chains[0][v], chains[1][v]), hn::Add(chains[2][v], chains[3][v]));
  }
  /// out[column][query] += v^T weights, for the block of keys from `key` on
  static HWY_INLINE void add_values(const ForwardBuffers& b, int64_t key) {
    const float *v = b.v + key * b.width, *scores = b.scores;
    float* const out = b.out;
    const int64_t width = b.width;
    for (int64_t c = 0; c < width; c += kRows) {
      Block<kVectors> block;
      clear(block);
      multiply<kForwardUnrolled>(block, v + c, 1, width, scores, kQueries, kForwardKeys);
      add_block(block, out + c * kQueries, kQueries);
    }
  }

  /// The same in the backward, and block = dout . v, which is kept in dp.
  class Gradients {
   public:
    HWY_INLINE Gradients(const BackwardBuffers& b, int64_t key, float*, float* dp)
        : k_(b.k + key * b.width),
          v_(b.v + key * b.width),
          q_(b.q),
          dout_(b.dout),
          dp_(dp),
          width_(b.width) {}
    HWY_INLINE void logits(Block<kVectors>& block, int64_t r0) const {
      multiply_width(block, k_ + r0 * width_, width_, q_, kQueries, width_);
    }
    HWY_INLINE void gradients(Block<kVectors>& block, int64_t r0) const {
      multiply_width(block, v_ + r0 * width_, width_, dout_, kQueries, width_);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
          store_floats(block.at[r][v], dp_ + (r0 + r) * kQueries + v * kLanes);
      }
    }

   private:
    const float *k_, *v_, *q_, *dout_;
    float* dp_;
    int64_t width_;
  };

  static HWY_INLINE void prepare_keys(const BackwardBuffers&, const Interval&) {}
  static HWY_INLINE void prepare_queries(const BackwardBuffers&) {}
  /// dv, dk and dq += the block of keys from `key` on, of what is wanted; p and ds are [keys][kQueries]
  static HWY_INLINE void add_gradients(const BackwardBuffers& b, int64_t key, const float* p, const float* ds,
                                       bool dq, bool dk, bool dv) {
    if (dv) add_outer(p, b.dout_rows, b.pitch, b.dv + key * b.pitch);
    if (dk) add_outer(ds, b.q_rows, b.pitch, b.dk + key * b.pitch);
    if (dq) add_keys(b.k + key * b.width, ds, b.width, b.dq);
  }
  static HWY_INLINE void finish_queries(const BackwardBuffers&, bool) {}
  static HWY_INLINE void finish_keys(const BackwardBuffers&, const Interval&, bool, bool) {}

 private:
  static constexpr int kForwardUnrolled = 4;  // the backward, with more products in a row, loses by it

  template <int N>
  static HWY_INLINE void add_outer_panel(const float* weights, const float* rows, int64_t pitch,
                                         int64_t column, float* sums) {
    for (int64_t r0 = 0; r0 < kBackwardKeys; r0 += kRows) {
      Block<N> block;
      clear(block);
      multiply(block, weights + r0 * kQueries, kQueries, 1, rows + column, pitch, kQueries);
      add_block(block, sums + r0 * pitch + column, pitch);
    }
  }

  // sums[key][column] += sum over queries of weights[key][query] * rows[query][column]
  static HWY_INLINE void add_outer(const float* weights, const float* rows, int64_t pitch, float* sums) {
    int64_t column = 0;
    for (; column + kVectors * kLanes <= pitch; column += kVectors * kLanes) {
      add_outer_panel<kVectors>(weights, rows, pitch, column, sums);
    }
    for (; column < pitch; column += kLanes) add_outer_panel<1>(weights, rows, pitch, column, sums);
  }

  // dq[column][query] += k^T ds
  static HWY_INLINE void add_keys(const float* k, const float* ds, int64_t width, float* dq) {
    for (int64_t c = 0; c < width; c += kRows) {
      Block<kVectors> block;
      clear(block);
      multiply(block, k + c, 1, width, ds, kQueries, kBackwardKeys);
      add_block(block, dq + c * kQueries, kQueries);
    }
  }
};

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
