// SPDX-License-Identifier: Apache-2.0
// Names, sizes and binary16 conversion for dtype.h.
#include "axial/core/dtype/dtype.h"

#include <array>
#include <cmath>

namespace axial {
namespace {

struct Row {
  DType dtype;
  int64_t size;
  std::string_view name;
  std::string_view short_name;
};

constexpr std::array<Row, 10> kRows{{{DType::kF64, 8, "float64", "fp64"},
                                     {DType::kF32, 4, "float32", "fp32"},
                                     {DType::kBF16, 2, "bfloat16", "bf16"},
                                     {DType::kF16, 2, "float16", "fp16"},
                                     {DType::kI64, 8, "int64", "i64"},
                                     {DType::kI32, 4, "int32", "i32"},
                                     {DType::kI16, 2, "int16", "i16"},
                                     {DType::kI8, 1, "int8", "i8"},
                                     {DType::kU8, 1, "uint8", "u8"},
                                     {DType::kBool, 1, "bool", "bool"}}};

const Row& row_of(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }

}  // namespace

int64_t size_of(DType dtype) { return row_of(dtype).size; }

std::string_view name_of(DType dtype) { return row_of(dtype).name; }

DType dtype_from_name(std::string_view name) {
  std::string known;
  for (const Row& row : kRows) {
    if (name == row.name || name == row.short_name) return row.dtype;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  fail("dtype", "unknown element type '{}'; expected one of {}", name, known);
}

Float16::Float16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude >= 0x47800000u) {  // beyond the largest half, infinity or NaN
    bits = static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u));
    return;
  }
  if (magnitude < 0x38800000u) {  // subnormal half: let float addition do the rounding
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
    return;
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  bits = static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

Float16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

}  // namespace axial
