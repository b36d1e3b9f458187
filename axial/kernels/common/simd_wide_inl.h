// SPDX-License-Identifier: Apache-2.0
// simd_inl.h for kernels that compute in fp64 as well: the same loads, stores and loop, with the
// compute type chosen by the tag, so that one template serves fp64 and the narrower types.
// Included once per target, after foreach_target.h.

#if defined(AXIAL_KERNELS_COMMON_SIMD_WIDE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_COMMON_SIMD_WIDE_INL_H_
#undef AXIAL_KERNELS_COMMON_SIMD_WIDE_INL_H_
#else
#define AXIAL_KERNELS_COMMON_SIMD_WIDE_INL_H_
#endif

#include "axial/kernels/common/simd_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

using DoubleTag = hn::ScalableTag<double>;
using Doubles = hn::Vec<DoubleTag>;

/// Tag of the type that `T` is computed in: double for double, else float.
template <class T>
using AccTag = hn::ScalableTag<acc_t<T>>;

template <class T, class Part>
HWY_INLINE Floats load_as(FloatTag, const T* p, Part part) {
  return load(p, part);
}
HWY_INLINE Doubles load_as(DoubleTag d, const double* p, All) { return hn::LoadU(d, p); }
HWY_INLINE Doubles load_as(DoubleTag d, const float* p, All) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, DoubleTag>(), p));
}
template <class T>
HWY_INLINE Doubles load_as(DoubleTag d, const T* p, First part) {
  T values[HWY_MAX_BYTES / sizeof(double)] = {};
  std::memcpy(values, p, part.n * sizeof(T));
  return load_as(d, values, All{});
}

template <class T, class Part>
HWY_INLINE void store_as(FloatTag, Floats v, T* p, Part part) {
  store(v, p, part);
}
HWY_INLINE void store_as(DoubleTag d, Doubles v, double* p, All) { hn::StoreU(v, d, p); }
HWY_INLINE void store_as(DoubleTag d, Doubles v, double* p, First part) {
  double values[HWY_MAX_BYTES / sizeof(double)];
  hn::StoreU(v, d, values);
  std::memcpy(p, values, part.n * sizeof(double));
}

/// for_lanes with the vector width of `d`.
template <class D, class Body>
HWY_INLINE void for_lanes_of(D d, int64_t n, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, All{});
  if (i < n) body(i, First{static_cast<size_t>(n - i)});
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
