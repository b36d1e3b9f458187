// SPDX-License-Identifier: Apache-2.0
// The one seam through which the host reads a device value (loss, gradient norm, finite check).
#pragma once

#include <ATen/core/Tensor.h>

namespace axial::parallel {

/// The scalar as a double; `nominal` where there is no data (Meta), so that a plan runs the real step.
double host_value(const at::Tensor& scalar, double nominal);

}  // namespace axial::parallel
