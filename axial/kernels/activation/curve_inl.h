// SPDX-License-Identifier: Apache-2.0
// Activations and their slopes on vectors of float, each over one exponential. Included once per target.

#if defined(AXIAL_KERNELS_ACTIVATION_CURVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ACTIVATION_CURVE_INL_H_
#undef AXIAL_KERNELS_ACTIVATION_CURVE_INL_H_
#else
#define AXIAL_KERNELS_ACTIVATION_CURVE_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>

#include "axial/kernels/activation/implementations.h"
#include "axial/kernels/common/simd_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

struct Curve {
  Floats value;  // act(x)
  Floats slope;  // act'(x)
};

HWY_INLINE Floats constant(float value) { return hn::Set(FloatTag(), value); }

// Phi(x) = 1 - Q(x) for x >= 0 and Q(|x|) below, with the tail Q(u) = exp(-u^2 / 2) * q(t), t = 1 / (1 + 0.21
// u). q is a fit of erfcx(u / sqrt 2) / 2 by t * polynomial(t), minimax in relative error: 1.9e-8 on u in
// [0, 14.5], beyond which the exponential is below the smallest float. So the left tail keeps its digits.
HWY_INLINE Curve gelu_erf(Floats x) {
  const Floats u = hn::Abs(x);
  const Floats gauss = hn::Exp(FloatTag(), hn::Mul(hn::Mul(x, x), constant(-0.5f)));
  const Floats t = hn::Div(constant(1), hn::MulAdd(u, constant(0.21f), constant(1)));
  Floats q = constant(-0.07130046626640707f);
  for (const float c :
       {0.28183237448993664f, -0.32655158664764267f, 0.34505478950707286f, -0.0908209892824992f,
        0.12349347367210904f, 0.06956402800124804f, 0.08501328816594875f, 0.08371509777720737f}) {
    q = hn::MulAdd(q, t, constant(c));
  }
  const Floats tail = hn::Mul(gauss, hn::Mul(q, t));
  const Floats phi = hn::IfThenElse(hn::Lt(x, constant(0)), tail, hn::Sub(constant(1), tail));
  const Floats density = hn::Mul(gauss, constant(0.3989422804f));
  return {hn::Mul(x, phi), hn::MulAdd(x, density, phi)};
}

struct Sigmoid {
  Floats s;     // 1 / (1 + exp(-x)), 0 below -88
  Floats rest;  // 1 - s without the cancellation
};

// The exponential is kept finite; NaN comes back through x in what uses this.
HWY_INLINE Sigmoid sigmoid(Floats x) {
  const Floats e = hn::Exp(FloatTag(), hn::Min(hn::Neg(x), constant(88)));
  const Floats s = hn::Div(constant(1), hn::Add(constant(1), e));
  return {hn::IfThenZeroElse(hn::Lt(x, constant(-88)), s), hn::Mul(e, s)};
}

// (1 + tanh z) / 2 = sigmoid(2 z), and its slope by z is 2 s (1 - s).
HWY_INLINE Curve gelu_tanh(Floats x) {
  const Floats twice_a = constant(2 * 0.7978845608f);  // 2 sqrt(2 / pi)
  const Floats b = constant(0.044715f);
  const Floats squared = hn::Mul(x, x);
  const Sigmoid sig = sigmoid(hn::Mul(hn::Mul(twice_a, x), hn::MulAdd(b, squared, constant(1))));
  const Floats inner = hn::Mul(twice_a, hn::MulAdd(constant(3 * 0.044715f), squared, constant(1)));
  const Floats value = hn::Mul(x, sig.s);
  return {value, hn::MulAdd(hn::Mul(value, sig.rest), inner, sig.s)};
}

HWY_INLINE Curve silu(Floats x) {
  const Sigmoid sig = sigmoid(x);
  const Floats value = hn::Mul(x, sig.s);
  return {value, hn::MulAdd(value, sig.rest, sig.s)};
}

HWY_INLINE Curve relu(Floats x) {
  const auto off = hn::Le(x, constant(0));  // false for NaN, which passes
  return {hn::IfThenZeroElse(off, x), hn::IfThenZeroElse(off, constant(1))};
}

/// Both; the compiler drops the one that is not used.
template <Activation kKind>
HWY_INLINE Curve curve(Floats x) {
  if constexpr (kKind == Activation::kGeluErf) {
    return gelu_erf(x);
  } else if constexpr (kKind == Activation::kGeluTanh) {
    return gelu_tanh(x);
  } else if constexpr (kKind == Activation::kSilu) {
    return silu(x);
  } else {
    return relu(x);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
