// SPDX-License-Identifier: Apache-2.0
// The host's read of a device scalar; the only place that calls item() in a step.
#include "axial/parallel/host_value/host_value.h"

#include <ATen/ATen.h>

#include "axial/core/check/check.h"

namespace axial::parallel {

double host_value(const at::Tensor& scalar, double nominal) {
  AXIAL_CHECK(scalar.defined() && scalar.numel() == 1, "host_value",
              "tensor to read; expected one element, got {}",
              scalar.defined() ? fmt::format("shape {}", fmt::join(scalar.sizes(), "x")) : "none");
  if (scalar.is_meta()) return nominal;
  return scalar.item().toDouble();
}

}  // namespace axial::parallel
