// SPDX-License-Identifier: Apache-2.0
// For kernel tests only: buffers of any float type between guard bytes, random values, and the rule
// that a fast kernel may err at most twice as much as the plain loops in the same precision.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/core/rng/rng.h"

namespace axial::kernels::test {

inline constexpr DType kFloatTypes[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16};
inline constexpr int kThreadCounts[] = {1, 2, 3, 5, 16};

/// Type that row statistics of `dtype` have.
inline DType statistic_type(DType dtype) { return dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

/// `count` elements, first filled with NaN, between guards that a kernel must not touch.
class Buffer {
 public:
  Buffer(DType dtype, int64_t count)
      : dtype_(dtype), count_(count), bytes_(static_cast<size_t>(count * size_of(dtype)) + 2 * kGuard, 0xff) {
    std::memset(bytes_.data(), 0xa5, kGuard);
    std::memset(bytes_.data() + bytes_.size() - kGuard, 0xa5, kGuard);
  }
  Buffer(DType dtype, const std::vector<double>& values)
      : Buffer(dtype, static_cast<int64_t>(values.size())) {
    for (int64_t i = 0; i < count_; ++i) set(i, values[static_cast<size_t>(i)]);
  }

  void* data() { return bytes_.data() + kGuard; }
  int64_t size() const { return count_; }
  DType dtype() const { return dtype_; }

  void set(int64_t i, double value) {
    dispatch_floating(dtype_, "test", [&]<class T>() {
      if constexpr (std::is_same_v<T, double>) {
        reinterpret_cast<T*>(data())[i] = value;
      } else {
        reinterpret_cast<T*>(data())[i] = T(static_cast<float>(value));
      }
    });
  }
  double get(int64_t i) {
    return dispatch_floating(dtype_, "test", [&]<class T>() -> double {
      return static_cast<acc_t<T>>(reinterpret_cast<T*>(data())[i]);
    });
  }
  std::vector<double> values() {
    std::vector<double> out(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) out[static_cast<size_t>(i)] = get(i);
    return out;
  }
  /// The same values as fp64.
  Buffer widened() { return Buffer(DType::kF64, values()); }

  bool guards_intact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != 0xa5 || bytes_[bytes_.size() - 1 - i] != 0xa5) return false;
    }
    return true;
  }
  bool same_bytes(const Buffer& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr size_t kGuard = 128;
  DType dtype_;
  int64_t count_;
  std::vector<uint8_t> bytes_;
};

inline std::vector<double> random_values(std::string_view name, int64_t count, double scale = 1,
                                         double shift = 0) {
  const RngKey key = root_key(17).child(name);
  std::vector<double> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    out[static_cast<size_t>(i)] = shift + scale * random_normal(key, static_cast<uint64_t>(i));
  }
  return out;
}

/// Relative error of one rounding to nearest.
inline double rounding(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 0x1p-53;
    case DType::kF32:
      return 0x1p-24;
    case DType::kBF16:
      return 0x1p-8;
    default:
      return 0x1p-11;
  }
}

/// Largest absolute value, 0 when empty.
inline double largest(Buffer buffer) {
  double most = 0;
  for (const double v : buffer.values()) most = std::max(most, std::abs(v));
  return most;
}

/// Largest |actual - truth| <= 2 x largest |plain - truth| + one rounding of the largest |truth|, or of
/// `terms`, the size of the terms that a sum adds up when they may cancel.
inline ::testing::AssertionResult within_twice(Buffer& actual, Buffer& plain, Buffer& truth,
                                               double terms = 0) {
  double error = 0, allowed = 0;
  for (int64_t i = 0; i < truth.size(); ++i) {
    const double t = truth.get(i);
    if (!std::isfinite(actual.get(i))) {
      return ::testing::AssertionFailure() << "element " << i << " is " << actual.get(i) << ", not " << t;
    }
    error = std::max(error, std::abs(actual.get(i) - t));
    allowed = std::max(allowed, 2 * std::abs(plain.get(i) - t));
  }
  allowed += rounding(actual.dtype()) * std::max(largest(truth), terms);
  if (error <= allowed) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "error " << error << " above " << allowed;
}

/// Run `body` with each thread count on fresh outputs; the buffers that it returns must be equal to the bit.
template <class Body>
void expect_equal_for_any_threads(const Body& body) {
  const std::vector<Buffer> first = body(serial_parallel_for());
  for (const int threads : kThreadCounts) {
    const std::vector<Buffer> again = body(thread_parallel_for(threads));
    ASSERT_EQ(first.size(), again.size());
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_TRUE(first[i].same_bytes(again[i])) << "output " << i << ", " << threads << " threads";
    }
  }
}

}  // namespace axial::kernels::test
