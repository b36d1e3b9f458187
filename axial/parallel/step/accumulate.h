// SPDX-License-Identifier: Apache-2.0
// Sums of gradients that take a tensor over where nobody else sees it, and copy where somebody does.
#pragma once

#include <ATen/core/Tensor.h>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::parallel {

/// sum += part, in place only when `sum` alone owns its storage; an undefined sum takes `part` over.
void accumulate(at::Tensor& sum, at::Tensor part);

/// parameter.local_grad += part, in fp32 (fp64 for fp64 values). The first part becomes the gradient without
/// a copy when its dtype fits and nothing else shares its storage.
void accumulate_gradient(Parameter& parameter, at::Tensor part);

}  // namespace axial::parallel
