// SPDX-License-Identifier: Apache-2.0
// Between strided tensors of any float type and the fp32 tiles of the attention kernels: rows as they are,
// and rows turned into lanes. Included once per target.

#if defined(AXIAL_KERNELS_ATTENTION_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_PACK_INL_H_
#undef AXIAL_KERNELS_ATTENTION_PACK_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_PACK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "axial/kernels/attention/tile_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

/// A matrix somewhere in a tensor: element (i, c) at data + i * row + c * col.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t row = 0;
  int64_t col = 0;
};

template <class T>
HWY_INLINE void load_row(const T* from, int64_t col, int64_t n, float* to) {
  if (col == 1) {
    for_lanes(n, [&](int64_t i, auto part) HWY_ATTR { store(load(from + i, part), to + i, part); });
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i * col]);
  }
}

/// to[i * pitch + c] = m(i, c) for i < rows, c < cols; zero up to `pitch` and `padded` rows.
HWY_INLINE void pack_rows(const Matrix& m, int64_t rows, int64_t cols, int64_t padded, int64_t pitch,
                          float* to) {
  dispatch_narrow(m.dtype, [&]<class T>() HWY_ATTR {
    const T* from = static_cast<const T*>(m.data);
    for (int64_t i = 0; i < rows; ++i) {
      load_row(from + i * m.row, m.col, cols, to + i * pitch);
      std::fill(to + i * pitch + cols, to + (i + 1) * pitch, 0.0f);
    }
  });
  std::fill(to + rows * pitch, to + padded * pitch, 0.0f);
}

/// m(i, c) = from[i * pitch + c] for i < rows, c < cols, rounded to the dtype.
HWY_INLINE void unpack_rows(const float* from, int64_t pitch, int64_t rows, int64_t cols, const Matrix& m) {
  dispatch_narrow(m.dtype, [&]<class T>() HWY_ATTR {
    T* to = static_cast<T*>(m.data);
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = from + i * pitch;
      if (m.col == 1) {
        for_lanes(cols, [&](int64_t c, auto part)
                            HWY_ATTR { store(load(row + c, part), to + i * m.row + c, part); });
      } else {
        for (int64_t c = 0; c < cols; ++c) to[i * m.row + c * m.col] = T(row[c]);
      }
    }
  });
}

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
  HWY_ALIGN float values[kLanes];
  hn::Store(v, FloatTag(), values);
  const hn::Full128<float> d4;
  for (int64_t b = 0; b < kLanes / 4; ++b) hn::StoreU(hn::Load(d4, values + 4 * b), d4, to + 4 * b * pitch);
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

/// n values of a bias row; the dtype's lowest value is minus infinity.
HWY_INLINE void load_bias_row(const Matrix& m, int64_t i, int64_t first, int64_t n, float* to) {
  float lowest = 0;
  dispatch_narrow(m.dtype, [&]<class T>() HWY_ATTR {
    load_row(static_cast<const T*>(m.data) + i * m.row + first * m.col, m.col, n, to);
    if constexpr (std::is_same_v<T, float>) lowest = std::numeric_limits<float>::lowest();
    if constexpr (std::is_same_v<T, BFloat16>) lowest = -3.38953139e38f;
    if constexpr (std::is_same_v<T, Float16>) lowest = -65504.0f;
  });
  const Floats limit = hn::Set(FloatTag(), lowest);
  const Floats none = hn::Set(FloatTag(), -std::numeric_limits<float>::infinity());
  for_lanes(n, [&](int64_t c, auto part) HWY_ATTR {
    const Floats v = load(to + c, part);
    store(hn::IfThenElse(hn::Le(v, limit), none, v), to + c, part);
  });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
