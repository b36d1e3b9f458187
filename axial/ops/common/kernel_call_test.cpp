// SPDX-License-Identifier: Apache-2.0
#include "axial/ops/common/kernel_call.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>

namespace axial::ops {
namespace {

// Whether the mapping that holds `address` is advised to use huge pages ("hg" among its flags).
bool advised(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) inside = begin <= at && at < end;
    if (inside && line.starts_with("VmFlags:")) return line.find(" hg") != std::string::npos;
  }
  return false;
}

TEST(KernelCall, LargeResultsAskForHugePages) {
  if (const char* setting = "/sys/kernel/mm/transparent_hugepage/enabled"; !std::ifstream(setting))
    GTEST_SKIP() << "this system has no transparent huge pages: " << setting << " is missing";
  const at::Tensor large = empty({64, 1 << 20}, at::kByte);
  EXPECT_TRUE(advised(static_cast<char*>(large.data_ptr()) + large.nbytes() / 2));
  EXPECT_EQ(large.fill_(3).sum().item<int64_t>(), 3 * large.numel());
  EXPECT_EQ(empty({1 << 30, 1 << 10}, at::TensorOptions(at::kMeta)).sizes(),
            at::IntArrayRef({1 << 30, 1 << 10}));
  EXPECT_EQ(empty({0, 5}, at::kBFloat16).scalar_type(), at::kBFloat16);
}

TEST(KernelCall, ParallelForCoversEveryPieceOnce) {
  std::vector<std::atomic<int>> seen(1000);
  torch_parallel_for()(1000, 7, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
  });
  for (const auto& s : seen) EXPECT_EQ(s.load(), 1);
  torch_parallel_for()(0, 1, [](int64_t, int64_t) { FAIL() << "no piece to cover"; });
}

TEST(KernelCall, DtypesMapOneToOne) {
  EXPECT_EQ(dtype_of(at::empty({0}, at::kBFloat16), "t"), DType::kBF16);
  EXPECT_EQ(dtype_of(at::empty({0}, at::kLong), "t"), DType::kI64);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64, DType::kI32,
                            DType::kI16, DType::kI8, DType::kU8, DType::kBool}) {
    EXPECT_EQ(dtype_of(at::empty({0}, scalar_type_of(dtype)), "t"), dtype);
  }
  EXPECT_THROW(dtype_of(at::empty({0}, at::kComplexFloat), "t"), UnsupportedError);
}

TEST(KernelCall, RowsAreViewedWhereStridesAllow) {
  const at::Tensor wide = at::randn({4, 3, 10});
  const at::Tensor slice = wide.slice(2, 2, 7);  // rows of 5 with stride 10
  const RowView view = as_rows(slice);
  EXPECT_EQ(view.tensor.data_ptr(), slice.data_ptr());
  EXPECT_EQ(view.rows, 12);
  EXPECT_EQ(view.cols, 5);
  EXPECT_EQ(view.stride, 10);
}

TEST(KernelCall, RowsAreCopiedWhereStridesForbid) {
  for (const at::Tensor& t : {at::randn({5, 4}).t(), at::randn({4, 3, 10}).slice(1, 0, 2).slice(2, 0, 5),
                              at::randn({4, 3, 10}).transpose(0, 1)}) {
    const RowView view = as_rows(t);
    EXPECT_NE(view.tensor.data_ptr(), t.data_ptr());
    EXPECT_EQ(view.stride, view.cols);
    EXPECT_TRUE(at::equal(view.tensor, t));
  }
}

TEST(KernelCall, BroadcastRowsKeepStrideZero) {
  const at::Tensor one = at::randn({1, 6});
  const RowView view = as_rows(one.expand({7, 6}));
  EXPECT_EQ(view.rows, 7);
  EXPECT_EQ(view.stride, 0);
  EXPECT_EQ(view.tensor.data_ptr(), one.data_ptr());
}

TEST(KernelCall, SecondOrderIsRefusedOnlyWhenWanted) {
  const at::Tensor plain = at::randn({2});
  const at::Tensor wanted = at::randn({2}).requires_grad_();
  EXPECT_NO_THROW(refuse_second_order("layer_norm", {plain, at::Tensor()}));
  EXPECT_THAT(
      [&] {
        refuse_second_order("layer_norm", {plain, wanted});
      },
      testing::ThrowsMessage<c10::Error>(testing::HasSubstr("[layer_norm] is of first order only")));
  const at::NoGradGuard off;
  EXPECT_NO_THROW(refuse_second_order("layer_norm", {wanted}));
}

}  // namespace
}  // namespace axial::ops
