// SPDX-License-Identifier: Apache-2.0
// Element types without torch: the enum, 16-bit floats, and typed dispatch for kernels and file formats.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "axial/core/check/check.h"

namespace axial {

/// Element type of a buffer; names follow PyTorch.
enum class DType : int8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kI16, kI8, kU8, kBool };

/// Size of one element in bytes.
int64_t size_of(DType dtype);
/// PyTorch's name: "float32", "bfloat16", "int64", ...
std::string_view name_of(DType dtype);
/// Parse PyTorch's name or a short form ("fp32", "bf16", "f16", ...); throws ValueError listing the names.
DType dtype_from_name(std::string_view name);

/// bfloat16: the upper half of an IEEE float, rounded to nearest even.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);  // keep NaN a NaN
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

/// IEEE binary16; conversions round to nearest even and keep subnormals.
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  explicit Float16(float value);
  explicit operator float() const;
};

/// Call `f.template operator()<T>()` for a floating dtype (double, float, BFloat16, Float16).
/// Throws UnsupportedError naming `op` and the supported dtypes for any other.
template <class F>
decltype(auto) dispatch_floating(DType dtype, std::string_view op, F&& f) {
  switch (dtype) {
    case DType::kF64:
      return f.template operator()<double>();
    case DType::kF32:
      return f.template operator()<float>();
    case DType::kBF16:
      return f.template operator()<BFloat16>();
    case DType::kF16:
      return f.template operator()<Float16>();
    default:
      fail<UnsupportedError>(op, "unsupported dtype; expected float64, float32, bfloat16 or float16, got {}",
                             name_of(dtype));
  }
}

/// The type sums are kept in: double for double, float for everything narrower.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulate<T>::type;

}  // namespace axial
