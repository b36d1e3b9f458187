// SPDX-License-Identifier: Apache-2.0
// Tests of the sums of squares and of the finite check.
#include <gtest/gtest.h>

#include <limits>

#include "axial/kernels/common/test_buffers.h"
#include "axial/kernels/optimizer_step/implementations.h"

namespace axial::kernels {
namespace {

using test::Buffer;
using test::random_values;

const std::vector<int64_t> kCounts{0, 1, 65535, 33, 0, 0, 131072, 7, 200003, 0};

std::vector<Buffer> random_list(DType dtype) {
  std::vector<Buffer> list;
  for (const int64_t n : kCounts) list.emplace_back(dtype, random_values("x" + std::to_string(n), n));
  return list;
}

std::vector<ListedTensor> listed(std::vector<Buffer>& buffers) {
  std::vector<ListedTensor> list;
  for (Buffer& buffer : buffers) list.push_back({buffer.data(), buffer.size()});
  return list;
}

TEST(SumOfSquares, MatchesAnExactSum) {
  for (const DType dtype : test::kFloatTypes) {
    std::vector<Buffer> buffers = random_list(dtype);
    const auto list = listed(buffers);
    for (const auto& implementation : sum_of_squares_table()) {
      SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), implementation.name));
      SumOfSquares params{.tensors = list, .dtype = dtype};
      Buffer workspace(DType::kF64, workspace_bytes(params) / 8);
      Buffer sums(DType::kF64, static_cast<int64_t>(list.size()));
      params.sums = static_cast<double*>(sums.data());
      params.workspace = workspace.data();
      ASSERT_TRUE(implementation.run(params, thread_parallel_for(3)).ok());
      for (size_t t = 0; t < list.size(); ++t) {
        long double exact = 0;  // 64 bits of mantissa hold the sum far more exactly than fp64 sums can
        for (const double x : buffers[t].values()) exact += static_cast<long double>(x) * x;
        // All terms are positive: the error of a sum of n terms is at most n roundings of the result.
        const double bound = 0x1p-53 * static_cast<double>(kCounts[t]) * static_cast<double>(exact);
        EXPECT_NEAR(sums.get(static_cast<int64_t>(t)), static_cast<double>(exact), bound) << "tensor " << t;
      }
      EXPECT_TRUE(workspace.guards_intact());
      EXPECT_TRUE(sums.guards_intact());
    }
  }
}

TEST(SumOfSquares, SameBitsForAnyThreads) {
  for (const DType dtype : test::kFloatTypes) {
    std::vector<Buffer> buffers = random_list(dtype);
    const auto list = listed(buffers);
    for (const auto& implementation : sum_of_squares_table()) {
      test::expect_equal_for_any_threads([&](const ParallelFor& parallel_for) {
        SumOfSquares params{.tensors = list, .dtype = dtype};
        Buffer workspace(DType::kF64, workspace_bytes(params) / 8);
        Buffer sums(DType::kF64, static_cast<int64_t>(list.size()));
        params.sums = static_cast<double*>(sums.data());
        params.workspace = workspace.data();
        EXPECT_TRUE(implementation.run(params, parallel_for).ok());
        return std::vector<Buffer>{sums};
      });
    }
  }
}

TEST(SumOfSquares, DoesNotOverflowInFp32) {
  std::vector<Buffer> buffers{Buffer(DType::kF32, std::vector<double>(40, 3e38))};
  const auto list = listed(buffers);
  for (const auto& implementation : sum_of_squares_table()) {
    double sum = 0;
    std::vector<double> workspace(4);
    const SumOfSquares params{
        .tensors = list, .dtype = DType::kF32, .sums = &sum, .workspace = workspace.data()};
    ASSERT_TRUE(implementation.run(params, serial_parallel_for()).ok());
    const double x = static_cast<float>(3e38);
    EXPECT_NEAR(sum / (40 * x * x), 1, 1e-14);
  }
}

TEST(FiniteCheck, FindsOneBadElementAnywhere) {
  const double bad[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()};
  for (const DType dtype : test::kFloatTypes) {
    std::vector<Buffer> buffers = random_list(dtype);
    buffers[3].set(4, dtype == DType::kF16 ? 65504 : 3e38);  // large is not infinite
    const auto list = listed(buffers);
    for (const auto& implementation : finite_check_table()) {
      SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), implementation.name));
      bool finite = false;
      const FiniteCheck params{.tensors = list, .dtype = dtype, .finite = &finite};
      ASSERT_TRUE(implementation.run(params, thread_parallel_for(2)).ok());
      EXPECT_TRUE(finite);
      const std::pair<size_t, int64_t> places[] = {{1, 0}, {3, 32}, {6, 70000}, {8, 0}, {8, 200002}};
      for (const auto& [tensor, index] : places) {
        for (const double value : bad) {
          const double kept = buffers[tensor].get(index);
          buffers[tensor].set(index, value);
          ASSERT_TRUE(implementation.run(params, thread_parallel_for(2)).ok());
          EXPECT_FALSE(finite) << value << " in tensor " << tensor << " at " << index;
          buffers[tensor].set(index, kept);
        }
      }
    }
  }
}

TEST(FiniteCheck, AnEmptyListIsFinite) {
  bool finite = false;
  ASSERT_TRUE(finite_check({.finite = &finite}, serial_parallel_for()).ok());
  EXPECT_TRUE(finite);
}

TEST(Reductions, RefuseWrongArguments) {
  bool finite = true;
  const ListedTensor null{nullptr, 3};
  const float x = 0;
  const ListedTensor negative{&x, -1};
  EXPECT_EQ(finite_check({.tensors = {&null, 1}, .finite = &finite}, serial_parallel_for()).code,
            StatusCode::kInvalid);
  EXPECT_EQ(finite_check({.tensors = {&negative, 1}, .finite = &finite}, serial_parallel_for()).code,
            StatusCode::kInvalid);
  EXPECT_EQ(sum_of_squares({.dtype = DType::kI64}, serial_parallel_for()).code, StatusCode::kUnsupported);
}

}  // namespace
}  // namespace axial::kernels
