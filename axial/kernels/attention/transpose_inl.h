// SPDX-License-Identifier: Apache-2.0
// Rows of a tile turned into lanes and back. Included once per target.

#if defined(AXIAL_KERNELS_ATTENTION_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_TRANSPOSE_INL_H_
#undef AXIAL_KERNELS_ATTENTION_TRANSPOSE_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/tile_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

HWY_INLINE void rows_to_lanes(const float* from, int64_t pitch, int64_t cols, float* to) {
  for (int64_t i = 0; i < kQueries; ++i) {
    for (int64_t c = 0; c < cols; ++c) to[c * kQueries + i] = from[i * pitch + c];
  }
}

HWY_INLINE void lanes_to_rows(const float* from, int64_t cols, float* to, int64_t pitch) {
  for (int64_t i = 0; i < kQueries; ++i) {
    for (int64_t c = 0; c < cols; ++c) to[i * pitch + c] = from[c * kQueries + i];
  }
}

#else

/// Four vectors v[c] whose lane i is element (i, c) of rows of at least four floats -> and back.
/// A 4 x 4 transpose inside every 128-bit block.
HWY_INLINE void transpose_blocks(Floats& a, Floats& b, Floats& c, Floats& e) {
  const FloatTag d;
  const hn::RepartitionToWide<FloatTag> dw;
  const auto ab_low = hn::BitCast(dw, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(dw, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(dw, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(dw, hn::InterleaveUpper(d, c, e));
  a = hn::BitCast(d, hn::InterleaveLower(dw, ab_low, ce_low));
  b = hn::BitCast(d, hn::InterleaveUpper(dw, ab_low, ce_low));
  c = hn::BitCast(d, hn::InterleaveLower(dw, ab_high, ce_high));
  e = hn::BitCast(d, hn::InterleaveUpper(dw, ab_high, ce_high));
}

/// The vector whose 128-bit block b holds from[b * 4 * pitch], .., + 3.
HWY_INLINE Floats gather_blocks(const float* from, int64_t pitch) {
  const hn::Full128<float> d4;
#if HWY_MAX_BYTES >= 64
  const hn::Half<FloatTag> dh;
  const auto low = hn::Combine(dh, hn::LoadU(d4, from + 4 * pitch), hn::LoadU(d4, from));
  const auto high = hn::Combine(dh, hn::LoadU(d4, from + 12 * pitch), hn::LoadU(d4, from + 8 * pitch));
  return hn::Combine(FloatTag(), high, low);
#elif HWY_MAX_BYTES >= 32
  return hn::Combine(FloatTag(), hn::LoadU(d4, from + 4 * pitch), hn::LoadU(d4, from));
#else
  return hn::LoadU(d4, from);
#endif
}

HWY_INLINE void scatter_blocks(Floats v, float* to, int64_t pitch) {
  const hn::Full128<float> d4;
#if HWY_MAX_BYTES >= 64
  const hn::Half<FloatTag> dh;
  const auto low = hn::LowerHalf(dh, v), high = hn::UpperHalf(dh, v);
  hn::StoreU(hn::LowerHalf(d4, low), d4, to);
  hn::StoreU(hn::UpperHalf(d4, low), d4, to + 4 * pitch);
  hn::StoreU(hn::LowerHalf(d4, high), d4, to + 8 * pitch);
  hn::StoreU(hn::UpperHalf(d4, high), d4, to + 12 * pitch);
#elif HWY_MAX_BYTES >= 32
  hn::StoreU(hn::LowerHalf(d4, v), d4, to);
  hn::StoreU(hn::UpperHalf(d4, v), d4, to + 4 * pitch);
#else
  hn::StoreU(v, d4, to);
#endif
}

/// to[c * kQueries + i] = from[i * pitch + c] for i < kQueries and c < cols, a multiple of 4.
HWY_INLINE void rows_to_lanes(const float* from, int64_t pitch, int64_t cols, float* to) {
  for (int64_t i = 0; i < kQueries; i += kLanes) {
    for (int64_t c = 0; c < cols; c += 4) {
      const float* at = from + i * pitch + c;
      Floats v0 = gather_blocks(at, pitch), v1 = gather_blocks(at + pitch, pitch);
      Floats v2 = gather_blocks(at + 2 * pitch, pitch), v3 = gather_blocks(at + 3 * pitch, pitch);
      transpose_blocks(v0, v1, v2, v3);
      float* column = to + c * kQueries + i;
      store_floats(v0, column);
      store_floats(v1, column + kQueries);
      store_floats(v2, column + 2 * kQueries);
      store_floats(v3, column + 3 * kQueries);
    }
  }
}

/// The inverse: to[i * pitch + c] = from[c * kQueries + i].
HWY_INLINE void lanes_to_rows(const float* from, int64_t cols, float* to, int64_t pitch) {
  for (int64_t i = 0; i < kQueries; i += kLanes) {
    for (int64_t c = 0; c < cols; c += 4) {
      const float* column = from + c * kQueries + i;
      Floats v0 = load_floats(column), v1 = load_floats(column + kQueries);
      Floats v2 = load_floats(column + 2 * kQueries), v3 = load_floats(column + 3 * kQueries);
      transpose_blocks(v0, v1, v2, v3);
      float* at = to + i * pitch + c;
      scatter_blocks(v0, at, pitch);
      scatter_blocks(v1, at + pitch, pitch);
      scatter_blocks(v2, at + 2 * pitch, pitch);
      scatter_blocks(v3, at + 3 * pitch, pitch);
    }
  }
}

#endif  // HWY_SCALAR

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
