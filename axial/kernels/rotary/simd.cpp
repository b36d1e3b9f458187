// SPDX-License-Identifier: Apache-2.0
// Rotary embedding with vectors: compiled once per instruction set, chosen at run time by Highway.
// Pairs go in blocks whose cosines and sines stay on the stack while every head of the token is turned.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/rotary/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
//
#include <hwy/contrib/math/math-inl.h>

#include <cmath>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/common/simd_wide_inl.h"
#include "axial/kernels/rotary/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kPairBlock = 64;

template <class Acc>
struct Turns {
  Acc cosines[kPairBlock];
  Acc sines[kPairBlock];
};

// 2 pi in two parts of 30 bits and the rest: n * part is exact for |n| < 2^23, with or without FMA.
constexpr double kTwoPi[3] = {0x1.921fb54000000p+2, 0x1.10b4611800000p-28, 0x1.313198a2e0370p-59};
constexpr double kPerTurn = 0x1.45f306dc9c883p-3;
constexpr double kLargestAngle = 0x1p25;

// Angles within [-kLargestAngle, kLargestAngle]: reduced to [-pi, pi], then Highway's sine and cosine.
template <class Acc>
void fill_turns(Turns<Acc>& turns, double position, const double* inv_freq, int64_t pairs, bool inverse) {
  const DoubleTag d;
  double cosines[kPairBlock], sines[kPairBlock];
  for_lanes_of(d, pairs, [&](int64_t i, auto part) HWY_ATTR {
    const auto angle = hn::Mul(hn::Set(d, position), load_as(d, inv_freq + i, part));
    const auto n = hn::Round(hn::Mul(angle, hn::Set(d, kPerTurn)));
    auto r = hn::NegMulAdd(n, hn::Set(d, kTwoPi[0]), angle);
    r = hn::NegMulAdd(n, hn::Set(d, kTwoPi[1]), r);
    r = hn::NegMulAdd(n, hn::Set(d, kTwoPi[2]), r);
    store_as(d, hn::Cos(d, r), cosines + i, part);
    store_as(d, hn::Sin(d, r), sines + i, part);
  });
  for (int64_t i = 0; i < pairs; ++i) {
    turns.cosines[i] = static_cast<Acc>(cosines[i]);
    turns.sines[i] = static_cast<Acc>(inverse ? -sines[i] : sines[i]);
  }
}

template <class Acc>
void fill_turns_exactly(Turns<Acc>& turns, double position, const double* inv_freq, int64_t pairs,
                        bool inverse) {
  for (int64_t i = 0; i < pairs; ++i) {
    const double angle = position * inv_freq[i];
    turns.cosines[i] = static_cast<Acc>(std::cos(angle));
    turns.sines[i] = static_cast<Acc>(inverse ? -std::sin(angle) : std::sin(angle));
  }
}

// Turn `pairs` pairs of one head: (x, x + half) to (y, y + half).
template <class T>
void turn_head(const Turns<acc_t<T>>& turns, const T* x, T* y, int64_t half, int64_t pairs) {
  const AccTag<T> d;
  for_lanes_of(d, pairs, [&](int64_t i, auto part) HWY_ATTR {
    const auto c = load_as(d, turns.cosines + i, part);
    const auto s = load_as(d, turns.sines + i, part);
    const auto a = load_as(d, x + i, part);
    const auto b = load_as(d, x + half + i, part);
    store_as(d, hn::NegMulAdd(b, s, hn::Mul(a, c)), y + i, part);
    store_as(d, hn::MulAdd(a, s, hn::Mul(b, c)), y + half + i, part);
  });
}

template <class T>
void rotate_token(const Rotary& p, int64_t token, double largest_frequency) {
  const T* x = static_cast<const T*>(p.x) + token * p.x_token_stride;
  T* y = static_cast<T*>(p.y) + token * p.y_token_stride;
  const double position = static_cast<double>(p.positions[token]);
  const bool small = std::abs(position) * largest_frequency <= kLargestAngle;
  Turns<acc_t<T>> turns;
  for (int64_t first = 0; first < p.pairs; first += kPairBlock) {
    const int64_t pairs = std::min(kPairBlock, p.pairs - first);
    const auto fill = small ? fill_turns<acc_t<T>> : fill_turns_exactly<acc_t<T>>;
    fill(turns, position, p.inv_freq + first, pairs, p.inverse);
    for (int64_t h = 0; h < p.heads; ++h) {
      turn_head(turns, x + h * p.x_head_stride + first, y + h * p.y_head_stride + first, p.pairs, pairs);
    }
  }
  const int64_t rest = p.head_dim - 2 * p.pairs;
  if (rest == 0 || p.x == p.y) return;
  for (int64_t h = 0; h < p.heads; ++h) {
    std::memcpy(y + h * p.y_head_stride + 2 * p.pairs, x + h * p.x_head_stride + 2 * p.pairs,
                static_cast<size_t>(rest) * sizeof(T));
  }
}

template <class T>
void rotate_tokens(const Rotary& p, int64_t begin, int64_t end) {
  double largest = 0;
  for (int64_t i = 0; i < p.pairs; ++i) largest = std::max(largest, std::abs(p.inv_freq[i]));
  for (int64_t token = begin; token < end; ++token) rotate_token<T>(p, token, largest);
}

void rotate_f64(const Rotary& p, int64_t b, int64_t e) { rotate_tokens<double>(p, b, e); }
void rotate_f32(const Rotary& p, int64_t b, int64_t e) { rotate_tokens<float>(p, b, e); }
void rotate_bf16(const Rotary& p, int64_t b, int64_t e) { rotate_tokens<BFloat16>(p, b, e); }
void rotate_f16(const Rotary& p, int64_t b, int64_t e) { rotate_tokens<Float16>(p, b, e); }

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(rotate_f64);
HWY_EXPORT(rotate_f32);
HWY_EXPORT(rotate_bf16);
HWY_EXPORT(rotate_f16);

namespace rotary_impl {

Status simd_rotary(const Rotary& params, const ParallelFor& parallel_for) {
  const auto rotate = params.dtype == DType::kF64    ? HWY_DYNAMIC_DISPATCH(rotate_f64)
                      : params.dtype == DType::kF32  ? HWY_DYNAMIC_DISPATCH(rotate_f32)
                      : params.dtype == DType::kBF16 ? HWY_DYNAMIC_DISPATCH(rotate_bf16)
                                                     : HWY_DYNAMIC_DISPATCH(rotate_f16);
  parallel_for(params.tokens, row_grain(params.heads * params.head_dim),
               [&](int64_t begin, int64_t end) { rotate(params, begin, end); });
  return {};
}

}  // namespace rotary_impl
}  // namespace axial::kernels
#endif
