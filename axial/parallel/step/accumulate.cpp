// SPDX-License-Identifier: Apache-2.0
// Autograd may hand out one tensor as several gradients (of a + b), views, or expanded tensors; only one
// that is alone and dense may be written or kept.
#include "axial/parallel/step/accumulate.h"

#include <ATen/ATen.h>

#include "axial/ops/common/memory_count.h"

namespace axial::parallel {

namespace {

bool is_alone(const at::Tensor& t) {
  return t.use_count() == 1 && t.storage().use_count() == 1 && t.is_non_overlapping_and_dense() &&
         t.storage().nbytes() == static_cast<size_t>(t.numel()) * t.element_size();
}

}  // namespace

void accumulate(at::Tensor& sum, at::Tensor part) {
  if (!sum.defined()) {
    sum = std::move(part);
  } else if (is_alone(sum)) {
    sum.add_(part);
  } else {
    sum = sum.add(part);
  }
}

void accumulate_gradient(Parameter& parameter, at::Tensor part) {
  const at::ScalarType dtype = parameter.value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  if (parameter.local_grad.defined()) {
    parameter.local_grad.add_(part);
  } else if (part.scalar_type() == dtype && part.is_contiguous() && is_alone(part)) {
    parameter.local_grad = std::move(part);
  } else {
    parameter.local_grad = at::empty(part.sizes(), part.options().dtype(dtype)).copy_(part);
  }
  ops::set_memory_use(parameter.local_grad, ops::MemoryUse::kGradients);
}

}  // namespace axial::parallel
