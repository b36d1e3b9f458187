// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one block of keys in attention's backward: P, dP, dS, and the products that they enter.
// Included once per target by backward_inl.h.

#if defined(AXIAL_KERNELS_ATTENTION_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_GRADIENT_INL_H_
#undef AXIAL_KERNELS_ATTENTION_GRADIENT_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_GRADIENT_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/products_inl.h"
#include "axial/kernels/attention/walk_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

/// Per query of a tile, and its share of the gradients.
struct TileState {
  Floats shift[kVectors];     // largest logit; infinity for queries that see nothing: their P is 0
  Floats inverse[kVectors];   // 1 / sum
  Floats products[kVectors];  // sum over keys of P dP
  Floats delta[kVectors];     // the same, or where it was summed otherwise
  Floats dquery[kVectors];    // sum of dS over keys
  float* dstripe[2] = {nullptr, nullptr};  // of the tile, [Jp, kQueries]
  float* dkey = nullptr;                   // [Jp, kLanes]
};

// P and dP of a block of keys; state.products takes the sum over keys of their product.
template <class Products, ScoreMode kMode, bool kMasked>
void probability_block(const BackwardBuffers& b, const QueryTile& tile, const Terms& terms, int64_t first_key,
                       float scale, float* p, float* dp, TileState& state) {
  const Floats scales = hn::Set(FloatTag(), scale);
  Floats of_block[kVectors] = {hn::Zero(FloatTag()),
                               hn::Zero(FloatTag())};  // of the block: long sums round more
  const typename Products::Gradients products(b, first_key, p, dp);
  for (int64_t r0 = 0; r0 < kBackwardKeys; r0 += kRows, p += kRows * kQueries, dp += kRows * kQueries) {
    Block<kVectors> block;
    products.logits(block, r0);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        Floats score = finish_score<kMode>(block.at[r][v], scales, tile, terms, r0 + r, v);
        if constexpr (kMasked) score = mask_score(score, tile, first_key + r0 + r, v);
        const Floats e = exp_of_negative(hn::Sub(score, state.shift[v]));
        store_floats(hn::Mul(e, state.inverse[v]), p + r * kQueries + v * kLanes);
      }
    }
    products.gradients(block, r0);
    Floats sums[kVectors] = {hn::Zero(FloatTag()), hn::Zero(FloatTag())};
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = r * kQueries + v * kLanes;
        sums[v] = hn::MulAdd(load_floats(p + at), block.at[r][v], sums[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) of_block[v] = hn::Add(of_block[v], sums[v]);
  }
  for (int v = 0; v < kVectors; ++v) state.products[v] = hn::Add(state.products[v], of_block[v]);
}

// dP becomes dS, and the biases take their part of it.
HWY_INLINE void difference_block(const float* p, float* ds, int64_t first_key, TileState& state) {
  Floats dquery[kVectors] = {state.dquery[0], state.dquery[1]};
  for (int64_t r = 0; r < kBackwardKeys; ++r) {
    Floats grad[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = r * kQueries + v * kLanes;
      grad[v] = hn::Mul(load_floats(p + at), hn::Sub(load_floats(ds + at), state.delta[v]));
      store_floats(grad[v], ds + at);
      dquery[v] = hn::Add(dquery[v], grad[v]);
    }
    for (float* dstripe : state.dstripe) {
      if (dstripe == nullptr) continue;
      for (int v = 0; v < kVectors; ++v) {
        float* to = dstripe + (first_key + r) * kQueries + v * kLanes;
        store_floats(hn::Add(load_floats(to), grad[v]), to);
      }
    }
    if (state.dkey != nullptr) {
      float* to = state.dkey + (first_key + r) * kLanes;
      store_floats(hn::Add(load_floats(to), hn::Add(grad[0], grad[1])), to);
    }
  }
  for (int v = 0; v < kVectors; ++v) state.dquery[v] = dquery[v];
}

template <class Products, bool kMasked>
HWY_INLINE void probabilities(const BackwardBuffers& b, const QueryTile& tile, const Terms& terms,
                              int64_t first_key, float scale, float* p, float* dp, TileState& state) {
  switch (mode_of(tile, terms)) {
    case ScoreMode::kPlain:
      return probability_block<Products, ScoreMode::kPlain, kMasked>(b, tile, terms, first_key, scale, p, dp,
                                                                     state);
    case ScoreMode::kDense:
      return probability_block<Products, ScoreMode::kDense, kMasked>(b, tile, terms, first_key, scale, p, dp,
                                                                     state);
    case ScoreMode::kDenseKey:
      return probability_block<Products, ScoreMode::kDenseKey, kMasked>(b, tile, terms, first_key, scale, p,
                                                                        dp, state);
    case ScoreMode::kGeneral:
      return probability_block<Products, ScoreMode::kGeneral, kMasked>(b, tile, terms, first_key, scale, p,
                                                                       dp, state);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
