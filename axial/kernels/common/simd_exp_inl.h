// SPDX-License-Identifier: Apache-2.0
// The exponential for softmax and losses. Highway's own turns NaN into 0, which would hide a diverged
// model behind a finite loss. Included once per target, after foreach_target.h.

#if defined(AXIAL_KERNELS_COMMON_SIMD_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_COMMON_SIMD_EXP_INL_H_
#undef AXIAL_KERNELS_COMMON_SIMD_EXP_INL_H_
#else
#define AXIAL_KERNELS_COMMON_SIMD_EXP_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

/// exp(x) for x up to 88 (fp32) or 709 (fp64), 0 for minus infinity, NaN for NaN.
template <class D, class V>
HWY_INLINE V exp_keeping_nan(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
