// SPDX-License-Identifier: Apache-2.0
#include "axial/core/dtype/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace axial {
namespace {

TEST(DType, EveryHalfRoundTrips) {
  for (uint32_t b = 0; b < 0x10000u; ++b) {
    Float16 h;
    h.bits = static_cast<uint16_t>(b);
    const float f = static_cast<float>(h);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(Float16(f))));
    } else {
      EXPECT_EQ(Float16(f).bits, h.bits) << b;
    }
  }
}

TEST(DType, HalfRoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(Float16(1.0f + 0x1p-11f)), 1.0f);
  EXPECT_EQ(static_cast<float>(Float16(1.0f + 3 * 0x1p-11f)), 1.0f + 0x1p-9f);
  EXPECT_EQ(static_cast<float>(Float16(65520.0f)), std::numeric_limits<float>::infinity());
  EXPECT_EQ(static_cast<float>(Float16(65519.0f)), 65504.0f);
}

TEST(DType, BFloat16RoundsToNearestEvenAndKeepsNaN) {
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::nanf("")))));
}

TEST(DType, NamesParseAndUnknownIsAnError) {
  EXPECT_EQ(dtype_from_name("bf16"), DType::kBF16);
  EXPECT_EQ(dtype_from_name("float32"), DType::kF32);
  EXPECT_THROW(dtype_from_name("fp8"), ValueError);
  EXPECT_EQ(size_of(DType::kI16), 2);
}

TEST(DType, DispatchRefusesIntegers) {
  EXPECT_EQ(dispatch_floating(DType::kF64, "x", []<class T>() { return sizeof(T); }), 8u);
  EXPECT_THROW(dispatch_floating(DType::kI64, "x", []<class T>() { return sizeof(T); }), UnsupportedError);
}

}  // namespace
}  // namespace axial
