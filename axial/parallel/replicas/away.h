// SPDX-License-Identifier: Apache-2.0
// Held parts of values that lie in the table's store between uses: on their way to the device, and their
// gradients on the way back. Used by replicas.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <set>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::parallel::detail {

/// Parts that are under way.
class AwayParts {
 public:
  /// Start to bring a part to the device; nothing for one that is there or on its way.
  void start(Parameter& parameter);
  /// The part on the device, contiguous: the shard, or what was started (or is now). Throws IoError.
  at::Tensor take(Parameter& parameter);

 private:
  std::set<Parameter*> under_way_;
};

/// Give `tensor` storage for its shape, or take it away, without a new leaf: graphs that saved it stay right.
void set_storage(const at::Tensor& tensor, bool whole);
/// Give `tensor` the memory of `from`, which has as many bytes and is used no more.
void take_storage(const at::Tensor& tensor, const at::Tensor& from);

/// Add a gradient of the held part to the parameter's, on the device or where the part is away on the host.
void add_gradient(const ParameterTable& parameters, Parameter& parameter, const at::Tensor& part);
/// Put it in place of what is there.
void set_gradient(const ParameterTable& parameters, Parameter& parameter, const at::Tensor& part);

}  // namespace axial::parallel::detail
