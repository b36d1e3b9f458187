// SPDX-License-Identifier: Apache-2.0
// The register-blocked products and the exponential of the attention kernels. Included once per target.
//
// A tile holds kQueries queries in the lanes of kVectors vectors, a key (or a head column) per row: all five
// products of attention are then rank-one updates "row block += broadcast A x vector B", and maxima and sums
// over keys are taken lane by lane.

#if defined(AXIAL_KERNELS_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_TILE_INL_H_
#undef AXIAL_KERNELS_ATTENTION_TILE_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_TILE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "axial/kernels/common/simd_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));
inline constexpr int kVectors = 2;
inline constexpr int kQueries = kVectors * kLanes;  // queries of a tile
// Rows of a register block: 16 sums, 2 vectors and a broadcast fit the registers of AVX-512; 8, 2 and 1 those
// of AVX2.
inline constexpr int kRows = kLanes >= 16 ? 8 : 4;

HWY_INLINE Floats load_floats(const float* p) { return hn::LoadU(FloatTag(), p); }
HWY_INLINE void store_floats(Floats v, float* p) { hn::StoreU(v, FloatTag(), p); }
HWY_INLINE Floats broadcast(const float* p) { return hn::Set(FloatTag(), *p); }

/// exp(x) for x <= 0 (rounding above is fine): 0 for minus infinity, NaN for NaN, at most 2 ulp off in the
/// normal range (1 with fused multiply-adds) and within 2^-126 below it. Cody and Waite reduction, degree-6
/// minimax polynomial.
HWY_INLINE Floats exp_of_negative(Floats x) {
  const FloatTag d;
  const Floats lowest = hn::Set(d, -104.0f);
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  const Floats y = hn::Max(lowest, x);  // the second operand wins for NaN
#else
  const Floats y = hn::IfThenElse(hn::Lt(x, lowest), lowest, x);
#endif
  const Floats n = hn::Round(hn::Mul(y, hn::Set(d, 1.44269504088896341f)));
  Floats f = hn::NegMulAdd(n, hn::Set(d, 0.693145752f), y);
  f = hn::NegMulAdd(n, hn::Set(d, 1.42860677e-6f), f);
  Floats p = hn::Set(d, 1.3814528e-3f);
  p = hn::MulAdd(p, f, hn::Set(d, 8.3687445e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 4.1668393e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.6666521e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 4.9999994e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  return Floats{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const hn::RebindToSigned<FloatTag> di;
  const auto power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  const Floats value = hn::Mul(p, hn::BitCast(d, power));
  return hn::IfThenZeroElse(hn::Lt(y, hn::Set(d, -87.33654f)), value);
#endif
}

/// A block of kRows x N vectors of sums.
template <int N>
struct Block {
  Floats at[kRows][N];
};

template <int N>
HWY_INLINE void clear(Block<N>& c) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < N; ++v) c.at[r][v] = hn::Zero(FloatTag());
  }
}

/// to += c. A block's products are summed from zero and added here, not onto what is there one by one: chains
/// as long as all keys, or all queries of a group of heads, would round more than torch's products do.
template <int N>
HWY_INLINE void add_block(const Block<N>& c, float* to, int64_t pitch) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < N; ++v) {
      float* at = to + r * pitch + v * kLanes;
      store_floats(hn::Add(load_floats(at), c.at[r][v]), at);
    }
  }
}

/// c[r] += sum over i < n of a[r * row + i * step] * b[i * pitch ..]; kUnrolled divides n.
template <int kUnrolled = 1, int N>
HWY_INLINE void multiply(Block<N>& c, const float* a, int64_t row, int64_t step, const float* b,
                         int64_t pitch, int64_t n) {
  for (int64_t i = 0; i < n; i += kUnrolled) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnrolled; ++u, a += step, b += pitch) {
      Floats right[N];
#pragma GCC unroll 2
      for (int v = 0; v < N; ++v) right[v] = load_floats(b + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Floats left = broadcast(a + r * row);
#pragma GCC unroll 2
        for (int v = 0; v < N; ++v) c.at[r][v] = hn::MulAdd(left, right[v], c.at[r][v]);
      }
    }
  }
}

/// c[r] = sum over i < n of a[r * row + i] * b[i * pitch ..]: logits, and dP, over the width. Wide heads are
/// summed in pieces, each from zero.
template <int kUnrolled = 1, int N>
HWY_INLINE void multiply_width(Block<N>& c, const float* a, int64_t row, const float* b, int64_t pitch,
                               int64_t n) {
  constexpr int64_t kChain = 64;
  clear(c);
  if (n <= kChain) return multiply<kUnrolled>(c, a, row, 1, b, pitch, n);
  HWY_ALIGN float sums[kRows * N * kLanes] = {};
  for (int64_t first = 0; first < n; first += kChain) {
    clear(c);
    multiply<kUnrolled>(c, a + first, row, 1, b + first * pitch, pitch, std::min(kChain, n - first));
    add_block(c, sums, N * kLanes);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < N; ++v) c.at[r][v] = load_floats(sums + (r * N + v) * kLanes);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
