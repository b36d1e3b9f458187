// SPDX-License-Identifier: Apache-2.0
// The optimizer step with vectors: compiled once per instruction set, chosen at run time by Highway.
// AdamW walks blocks that stay in the first cache, so that the copy is rounded from there.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/optimizer_step/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <bit>

#include "axial/kernels/common/simd_wide_inl.h"
#include "axial/kernels/optimizer_step/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

using optimizer_step::AdamWPart;
using optimizer_step::AdamWScalars;

// Formula: reference.cpp.
template <class T, class G>
void adamw_block(const AdamWPart<T, G>& part, int64_t first, int64_t count) {
  const AccTag<T> d;
  const AdamWScalars& s = part.scalars;
  const auto all = [&](double value) HWY_ATTR { return hn::Set(d, static_cast<T>(value)); };
  const auto grad_scale = all(s.grad_scale), one_minus_beta1 = all(s.one_minus_beta1);
  const auto beta2 = all(s.beta2), one_minus_beta2 = all(s.one_minus_beta2), decay = all(s.decay);
  const auto step_size = all(s.step_size), rsqrt_correction = all(s.rsqrt_correction), eps = all(s.eps);
  T* parameter = part.parameter + first;
  T* exp_avg = part.exp_avg + first;
  T* exp_avg_sq = part.exp_avg_sq + first;
  const G* grad = part.grad + first;
  for_lanes_of(d, count, [&](int64_t i, auto lanes) HWY_ATTR {
    const auto g = hn::Mul(load_as(d, grad + i, lanes), grad_scale);
    auto m = load_as(d, exp_avg + i, lanes);
    m = hn::MulAdd(one_minus_beta1, hn::Sub(g, m), m);
    auto v = hn::Mul(beta2, load_as(d, exp_avg_sq + i, lanes));
    v = hn::MulAdd(hn::Mul(one_minus_beta2, g), g, v);
    const auto denominator = hn::MulAdd(hn::Sqrt(v), rsqrt_correction, eps);
    const auto p = load_as(d, parameter + i, lanes);
    const auto change = hn::MulAdd(decay, p, hn::Div(hn::Mul(step_size, m), denominator));
    store_as(d, m, exp_avg + i, lanes);
    store_as(d, v, exp_avg_sq + i, lanes);
    store_as(d, hn::Sub(p, change), parameter + i, lanes);
  });
}

template <class C>
void round_copy(const float* from, C* to, int64_t count) {
  for_lanes(count, [&](int64_t i, auto lanes) HWY_ATTR { store(load(from + i, lanes), to + i, lanes); });
}

void copy_block(const float* from, uint8_t* copy, DType dtype, int64_t first, int64_t count) {
  if (dtype == DType::kBF16) {
    round_copy(from, reinterpret_cast<BFloat16*>(copy) + first, count);
  } else if (dtype == DType::kF16) {
    round_copy(from, reinterpret_cast<Float16*>(copy) + first, count);
  } else {
    round_copy(from, reinterpret_cast<float*>(copy) + first, count);
  }
}

template <class T, class G>
void adamw_blocks(const AdamWPart<T, G>& part) {
  constexpr int64_t kBlock = 1024;
  for (int64_t first = 0; first < part.count; first += kBlock) {
    const int64_t count = std::min(kBlock, part.count - first);
    adamw_block(part, first, count);
    if (part.copy == nullptr) continue;
    if constexpr (std::is_same_v<T, float>) {
      copy_block(part.parameter + first, part.copy, part.copy_dtype, first, count);
    } else {
      float narrow[kBlock];
      for (int64_t i = 0; i < count; ++i) narrow[i] = static_cast<float>(part.parameter[first + i]);
      copy_block(narrow, part.copy, part.copy_dtype, first, count);
    }
  }
}

// Sixteen sums, whatever the vector width, so that the order is the same on every machine.
template <class F>
double squares(const F* x, int64_t count) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int64_t j = 0; j < 16; ++j) sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (int64_t j = 0; i + j < count; ++j) {
    sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (int64_t width = 8; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sums[0];
}

template <class H>
double squares_of_narrow(const H* x, int64_t count) {
  constexpr int64_t kBlock = 1024;
  double sum = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t n = std::min(kBlock, count - first);
    float wide[kBlock];
    for_lanes(n, [&](int64_t i, auto lanes) HWY_ATTR { store(load(x + first + i, lanes), wide + i, lanes); });
    sum += squares(wide, n);
  }
  return sum;
}

// A float is finite unless its exponent bits are all ones. Blocks, so that a bad one stops the scan.
template <class U>
bool exponents_below(const void* data, int64_t count, U exponent) {
  const U* bits = static_cast<const U*>(data);
  constexpr int64_t kBlock = 4096;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t end = std::min(count, first + kBlock);
    U bad = 0;
    for (int64_t i = first; i < end; ++i) bad |= static_cast<U>((bits[i] & exponent) == exponent);
    if (bad != 0) return false;
  }
  return true;
}

void adamw_f32_f32(const AdamWPart<float, float>& part) { adamw_blocks(part); }
void adamw_f32_bf16(const AdamWPart<float, BFloat16>& part) { adamw_blocks(part); }
void adamw_f32_f16(const AdamWPart<float, Float16>& part) { adamw_blocks(part); }
void adamw_f64_f32(const AdamWPart<double, float>& part) { adamw_blocks(part); }
void adamw_f64_f64(const AdamWPart<double, double>& part) { adamw_blocks(part); }
double squares_f64(const double* x, int64_t count) { return squares(x, count); }
double squares_f32(const float* x, int64_t count) { return squares(x, count); }
double squares_bf16(const BFloat16* x, int64_t count) { return squares_of_narrow(x, count); }
double squares_f16(const Float16* x, int64_t count) { return squares_of_narrow(x, count); }
bool finite_64(const void* x, int64_t n) { return exponents_below<uint64_t>(x, n, 0x7ff0000000000000ull); }
bool finite_32(const void* x, int64_t n) { return exponents_below<uint32_t>(x, n, 0x7f800000u); }
bool finite_bf16(const void* x, int64_t n) { return exponents_below<uint16_t>(x, n, 0x7f80u); }
bool finite_f16(const void* x, int64_t n) { return exponents_below<uint16_t>(x, n, 0x7c00u); }

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(adamw_f32_f32);
HWY_EXPORT(adamw_f32_bf16);
HWY_EXPORT(adamw_f32_f16);
HWY_EXPORT(adamw_f64_f32);
HWY_EXPORT(adamw_f64_f64);
HWY_EXPORT(squares_f64);
HWY_EXPORT(squares_f32);
HWY_EXPORT(squares_bf16);
HWY_EXPORT(squares_f16);
HWY_EXPORT(finite_64);
HWY_EXPORT(finite_32);
HWY_EXPORT(finite_bf16);
HWY_EXPORT(finite_f16);

namespace optimizer_step {
namespace {

void adamw(const AdamWPart<float, float>& part) { HWY_DYNAMIC_DISPATCH(adamw_f32_f32)(part); }
void adamw(const AdamWPart<float, BFloat16>& part) { HWY_DYNAMIC_DISPATCH(adamw_f32_bf16)(part); }
void adamw(const AdamWPart<float, Float16>& part) { HWY_DYNAMIC_DISPATCH(adamw_f32_f16)(part); }
void adamw(const AdamWPart<double, float>& part) { HWY_DYNAMIC_DISPATCH(adamw_f64_f32)(part); }
void adamw(const AdamWPart<double, double>& part) { HWY_DYNAMIC_DISPATCH(adamw_f64_f64)(part); }
double part_squares(const double* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(squares_f64)(x, count); }
double part_squares(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(squares_f32)(x, count); }
double part_squares(const BFloat16* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(squares_bf16)(x, count); }
double part_squares(const Float16* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(squares_f16)(x, count); }
bool part_finite(const double* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(finite_64)(x, count); }
bool part_finite(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(finite_32)(x, count); }
bool part_finite(const BFloat16* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(finite_bf16)(x, count); }
bool part_finite(const Float16* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(finite_f16)(x, count); }

}  // namespace

Status simd_adamw_step(const AdamWStep& params, const ParallelFor& parallel_for) {
  dispatch_adamw(params, [&]<class T, class G>() {
    for_each_part(params.tensors, parallel_for, [&](size_t t, int64_t begin, int64_t end, int64_t) {
      adamw(adamw_part<T, G>(params, t, begin, end));
    });
  });
  return {};
}

Status simd_sum_of_squares(const SumOfSquares& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "sum_of_squares", [&]<class T>() {
    sum_parts<T>(params, parallel_for, [](const T* x, int64_t count) { return part_squares(x, count); });
  });
  return {};
}

Status simd_finite_check(const FiniteCheck& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "finite_check", [&]<class T>() {
    check_parts<T>(params, parallel_for, [](const T* x, int64_t count) { return part_finite(x, count); });
  });
  return {};
}

}  // namespace optimizer_step
}  // namespace axial::kernels
#endif
