// SPDX-License-Identifier: Apache-2.0
// Between strided tensors of any float type and fp32 rows of the attention kernels. Included once per target.

#if defined(AXIAL_KERNELS_ATTENTION_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_ROWS_INL_H_
#undef AXIAL_KERNELS_ATTENTION_ROWS_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_ROWS_INL_H_
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

/// Whether rows of m are whole vectors of floats, as packed rows are: copies then need no conversion.
HWY_INLINE bool copies(const Matrix& m, int64_t cols, int64_t pitch) {
  return m.dtype == DType::kF32 && m.col == 1 && cols == pitch && cols % kLanes == 0;
}

HWY_INLINE void copy_rows(const float* from, int64_t from_pitch, int64_t rows, int64_t cols, float* to,
                          int64_t to_pitch) {
  for (int64_t i = 0; i < rows; ++i, from += from_pitch, to += to_pitch) {
    for (int64_t c = 0; c < cols; c += kLanes) store_floats(load_floats(from + c), to + c);
  }
}

HWY_INLINE void stream_rows(const float* from, int64_t from_pitch, int64_t rows, int64_t cols, float* to,
                            int64_t to_pitch) {
  for (int64_t i = 0; i < rows; ++i, from += from_pitch, to += to_pitch) {
    for (int64_t c = 0; c < cols; c += kLanes) hn::Stream(load_floats(from + c), FloatTag(), to + c);
  }
}

/// to[i * pitch + c] = m(i, c) for i < rows, c < cols; zero up to `pitch` and `padded` rows.
HWY_INLINE void pack_rows(const Matrix& m, int64_t rows, int64_t cols, int64_t padded, int64_t pitch,
                          float* to) {
  if (copies(m, cols, pitch)) {
    copy_rows(static_cast<const float*>(m.data), m.row, rows, cols, to, pitch);
    std::fill(to + rows * pitch, to + padded * pitch, 0.0f);
    return;
  }
  dispatch_narrow(m.dtype, [&]<class T>() HWY_ATTR {
    const T* from = static_cast<const T*>(m.data);
    for (int64_t i = 0; i < rows; ++i) {
      load_row(from + i * m.row, m.col, cols, to + i * pitch);
      std::fill(to + i * pitch + cols, to + (i + 1) * pitch, 0.0f);
    }
  });
  std::fill(to + rows * pitch, to + padded * pitch, 0.0f);
}

/// m(i, c) = from[i * pitch + c] for i < rows, c < cols, rounded to the dtype. `streamed`: past the caches,
/// for tensors that do not fit them; a fence must follow before others read.
HWY_INLINE void unpack_rows(const float* from, int64_t pitch, int64_t rows, int64_t cols, const Matrix& m,
                            bool streamed) {
  if (copies(m, cols, pitch)) {
    float* to = static_cast<float*>(m.data);
    if (streamed && reinterpret_cast<uintptr_t>(to) % 64 == 0 && m.row % 16 == 0) {
      return stream_rows(from, pitch, rows, cols, to, m.row);
    }
    return copy_rows(from, pitch, rows, cols, to, m.row);
  }
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
