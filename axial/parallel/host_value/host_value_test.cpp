// SPDX-License-Identifier: Apache-2.0
// Values on the host, the nominal value on Meta.
#include "axial/parallel/host_value/host_value.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial::parallel {
namespace {

TEST(HostValue, ReadsDataAndNamesMeta) {
  EXPECT_EQ(host_value(at::full({}, 2.5, at::kFloat), 1.0), 2.5);
  EXPECT_EQ(host_value(at::full({1}, 3, at::kLong), 1.0), 3.0);
  EXPECT_EQ(host_value(at::empty({}, at::TensorOptions(at::kMeta)), 7.0), 7.0);
  EXPECT_THROW(host_value(at::zeros({2}), 0.0), ValueError);
  EXPECT_THROW(host_value(at::Tensor(), 0.0), ValueError);
}

}  // namespace
}  // namespace axial::parallel
