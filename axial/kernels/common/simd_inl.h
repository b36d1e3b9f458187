// SPDX-License-Identifier: Apache-2.0
// Loads and stores of every 16- and 32-bit float type as float vectors, whole or partial, for the
// Highway kernels. Included once per target, after foreach_target.h; vectors are always of float.
//
// for_lanes(n, body) calls body(i, part) for each vector of a row; `part` says whether it is whole.

#if defined(AXIAL_KERNELS_COMMON_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_COMMON_SIMD_INL_H_
#undef AXIAL_KERNELS_COMMON_SIMD_INL_H_
#else
#define AXIAL_KERNELS_COMMON_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "axial/core/dtype/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using Floats = hn::Vec<FloatTag>;

/// A whole vector.
struct All {};
/// The first `n` lanes of a vector; the others load as zero and are not stored.
struct First {
  size_t n;
};

// Which targets load and store under a mask without touching memory outside it, and convert fp16 with
// rounding to nearest; the others go through a small buffer.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
inline constexpr bool kMaskedAccess = true;
inline constexpr bool kHalfConversion = true;
#else
inline constexpr bool kMaskedAccess = false;
inline constexpr bool kHalfConversion = false;
#endif

HWY_INLINE Floats load(const float* p, All) { return hn::LoadU(FloatTag(), p); }

HWY_INLINE Floats load(const BFloat16* p, All) {
  const FloatTag d;
  const hn::Rebind<uint32_t, FloatTag> du32;
  const hn::Rebind<uint16_t, FloatTag> du16;
  const auto bits = hn::PromoteTo(du32, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

HWY_INLINE Floats load(const Float16* p, All) {
  const FloatTag d;
  if constexpr (kHalfConversion) {
    const hn::Rebind<hwy::float16_t, FloatTag> dhalf;
    return hn::PromoteTo(d, hn::LoadU(dhalf, reinterpret_cast<const hwy::float16_t*>(p)));
  } else {
    HWY_ALIGN float values[HWY_MAX_BYTES / sizeof(float)];
    for (size_t i = 0; i < hn::Lanes(d); ++i) values[i] = static_cast<float>(p[i]);
    return hn::Load(d, values);
  }
}

HWY_INLINE void store(Floats v, float* p, All) { hn::StoreU(v, FloatTag(), p); }

HWY_INLINE void store(Floats v, BFloat16* p, All) {
  const hn::Rebind<uint32_t, FloatTag> du32;
  const hn::Rebind<int32_t, FloatTag> di32;
  const hn::Rebind<uint16_t, FloatTag> du16;
  const auto u = hn::BitCast(du32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du32, 1));
  const auto rounded = hn::Add(u, hn::Add(hn::Set(du32, 0x7fff), odd));  // to nearest even
  const auto quiet = hn::Or(u, hn::Set(du32, 0x400000));                 // rounding may carry a NaN away
  const auto bits = hn::IfThenElse(hn::RebindMask(du32, hn::IsNaN(v)), quiet, rounded);
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di32, hn::ShiftRight<16>(bits))), du16,
             reinterpret_cast<uint16_t*>(p));
}

HWY_INLINE void store(Floats v, Float16* p, All) {
  const FloatTag d;
  if constexpr (kHalfConversion) {
    const hn::Rebind<hwy::float16_t, FloatTag> dhalf;
    hn::StoreU(hn::DemoteTo(dhalf, v), dhalf, reinterpret_cast<hwy::float16_t*>(p));
  } else {
    HWY_ALIGN float values[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(v, d, values);
    for (size_t i = 0; i < hn::Lanes(d); ++i) p[i] = Float16(values[i]);
  }
}

template <class T>
HWY_INLINE Floats load(const T* p, First part) {
  if constexpr (kMaskedAccess && sizeof(T) == sizeof(float)) {
    const FloatTag d;
    return hn::MaskedLoad(hn::FirstN(d, part.n), d, p);
  } else {
    T values[HWY_MAX_BYTES / sizeof(float)] = {};
    std::memcpy(values, p, part.n * sizeof(T));
    return load(values, All{});
  }
}

template <class T>
HWY_INLINE void store(Floats v, T* p, First part) {
  if constexpr (kMaskedAccess && sizeof(T) == sizeof(float)) {
    const FloatTag d;
    hn::BlendedStore(v, hn::FirstN(d, part.n), d, p);
  } else {
    T values[HWY_MAX_BYTES / sizeof(float)];
    store(v, values, All{});
    std::memcpy(p, values, part.n * sizeof(T));
  }
}

/// `v` with the lanes outside `part` replaced by `other`.
HWY_INLINE Floats select(Floats v, Floats, All) { return v; }
HWY_INLINE Floats select(Floats v, Floats other, First part) {
  return hn::IfThenElse(hn::FirstN(FloatTag(), part.n), v, other);
}

/// Call body(i, All) for each whole vector of [0, n) and body(i, First) for what is left.
template <class Body>
HWY_INLINE void for_lanes(int64_t n, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, All{});
  if (i < n) body(i, First{static_cast<size_t>(n - i)});
}

/// Call `f.template operator()<T>()` for float, BFloat16 or Float16; fp64 never comes here.
template <class F>
HWY_INLINE void dispatch_narrow(DType dtype, const F& f) {
  if (dtype == DType::kF32) {
    f.template operator()<float>();
  } else if (dtype == DType::kBF16) {
    f.template operator()<BFloat16>();
  } else {
    f.template operator()<Float16>();
  }
}

HWY_INLINE float sum_lanes(Floats v) { return hn::GetLane(hn::SumOfLanes(FloatTag(), v)); }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
