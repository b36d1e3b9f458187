// SPDX-License-Identifier: Apache-2.0
// What the sources of CUDA kernels are written in, so that nvcc and a host compiler read the same text:
// function and loop marks, 16-bit floats in pairs, exp2. Kernels are templates over a block:
// device/cuda_block.cuh on a device, testing/emulated_block.h in the tests.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "axial/core/dtype/dtype.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define AXIAL_DEVICE __device__ __forceinline__
#define AXIAL_UNROLL _Pragma("unroll")
#else
#define AXIAL_DEVICE inline
#define AXIAL_UNROLL
#endif

namespace axial::kernels::device {

inline constexpr int kWarp = 32;

/// A device sees the marked part alone; nvcc's pass for the host never runs kernels.
#ifdef __CUDA_ARCH__
AXIAL_DEVICE float exp2_fast(float x) {  // 2 ulp; subnormal results are 0
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
AXIAL_DEVICE float largest(float a, float b) { return fmaxf(a, b); }
/// Never fused with an addition: logits have equal bits in every kernel.
AXIAL_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
template <class T>
AXIAL_DEVICE float widen(uint16_t bits) {
  if constexpr (std::is_same_v<T, BFloat16>) return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  return __half2float(__ushort_as_half(bits));
}
template <class T>
AXIAL_DEVICE uint16_t narrow(float x) {
  if constexpr (std::is_same_v<T, BFloat16>) return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  return __half_as_ushort(__float2half_rn(x));
}
#else
AXIAL_DEVICE float exp2_fast(float x) { return std::exp2(x); }
AXIAL_DEVICE float largest(float a, float b) { return std::fmax(a, b); }
AXIAL_DEVICE float product(float a, float b) { return a * b; }
template <class T>
AXIAL_DEVICE float widen(uint16_t bits) {
  T value;
  value.bits = bits;
  return static_cast<float>(value);
}
template <class T>
AXIAL_DEVICE uint16_t narrow(float x) {
  return T(x).bits;
}
#endif

/// Two 16-bit floats in a word, the first in the low half, as matrix instructions take them.
template <class T>
AXIAL_DEVICE uint32_t pack_pair(float low, float high) {
  return static_cast<uint32_t>(narrow<T>(low)) | static_cast<uint32_t>(narrow<T>(high)) << 16;
}

/// Element `at` of a tensor of fp32, bfloat16 or float16.
AXIAL_DEVICE float load_as_float(const void* data, DType dtype, int64_t at) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  return dtype == DType::kBF16 ? widen<BFloat16>(bits) : widen<Float16>(bits);
}
AXIAL_DEVICE void store_from_float(void* data, DType dtype, int64_t at, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[at] = value;
  } else {
    static_cast<uint16_t*>(data)[at] =
        dtype == DType::kBF16 ? narrow<BFloat16>(value) : narrow<Float16>(value);
  }
}

/// The lowest value of a dtype: a bias of it counts as minus infinity.
AXIAL_DEVICE float lowest_of(DType dtype) {
  if (dtype == DType::kF32) return -3.402823466e38f;
  return dtype == DType::kBF16 ? -3.38953139e38f : -65504.0f;
}

AXIAL_DEVICE float minus_infinity() { return -std::bit_cast<float>(0x7f800000u); }

}  // namespace axial::kernels::device
