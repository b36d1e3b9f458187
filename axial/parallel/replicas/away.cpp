// SPDX-License-Identifier: Apache-2.0
// Fetches by parameter, memory that changes hands, and sums on the host.
#include "axial/parallel/replicas/away.h"

#include <ATen/ATen.h>

#include "axial/ops/common/memory_count.h"

namespace axial::parallel::detail {

void AwayParts::start(Parameter& parameter) {
  if (!parameter.away.defined() || !under_way_.insert(&parameter).second) return;
  const ops::MemoryScope scope(ops::MemoryUse::kGathered);
  parameter.away.start_fetch();
}

at::Tensor AwayParts::take(Parameter& parameter) {
  if (!parameter.away.defined()) return parameter.part().variable_data();
  start(parameter);
  under_way_.erase(&parameter);
  return parameter.away.take();
}

void set_storage(const at::Tensor& tensor, bool whole) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  const size_t bytes = whole ? static_cast<size_t>(tensor.numel()) * tensor.element_size() : 0;
  storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
}

void take_storage(const at::Tensor& tensor, const at::Tensor& from) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  c10::StorageImpl* source = from.storage().unsafeGetStorageImpl();
  const size_t bytes = source->nbytes();
  storage->set_data_ptr_noswap(source->set_data_ptr(source->allocator()->allocate(0)));
  source->set_nbytes(0);
  storage->set_nbytes(bytes);
}

void set_gradient(const ParameterTable& parameters, Parameter& parameter, const at::Tensor& part) {
  if (parameter.grad_place.defined()) {
    parameters.value_store()->write_host(parameter.grad_place, part, false);
    parameter.grad = parameter.grad_place;
  } else {
    parameter.grad = part;
    ops::set_memory_use(part, ops::MemoryUse::kGradients);
  }
}

void add_gradient(const ParameterTable& parameters, Parameter& parameter, const at::Tensor& part) {
  if (!parameter.grad.defined()) return set_gradient(parameters, parameter, part);
  if (parameter.grad_place.defined()) {
    parameters.value_store()->write_host(parameter.grad, part, true);
  } else {
    parameter.grad.add_(part);
  }
}

}  // namespace axial::parallel::detail
