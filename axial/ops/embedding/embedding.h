// SPDX-License-Identifier: Apache-2.0
// Row lookup with a deterministic gradient, over kernels/embedding.
#pragma once

#include <ATen/core/Tensor.h>

namespace axial::ops {

/// Rows of `weight` at `ids`.
///
///   weight  [V, C]   fp64 | fp32 | bf16 | fp16
///   ids     [..]     int64 in [0, V); ValueError naming the first id outside
///   returns [.., C]  dtype of weight
/// Gradients: weight (dense, summed in fp32, fp64 for fp64, in order of position, so equal for any number of
/// threads); of second order. Saves the ids. Local.
at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids);

}  // namespace axial::ops
