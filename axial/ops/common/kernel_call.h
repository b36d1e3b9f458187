// SPDX-License-Identifier: Apache-2.0
// What every op needs around a torch-free kernel: threads, dtype names, workspace, checks.
#pragma once

#include <ATen/core/Tensor.h>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"

namespace axial::ops {

/// at::parallel_for as a kernel's ParallelFor.
ParallelFor torch_parallel_for();

/// Our name of a torch dtype; throws UnsupportedError with the op's name for one that kernels do not know.
DType dtype_of(const at::Tensor& tensor, std::string_view op);

/// Uninitialised workspace from torch's allocator on `like`'s device (Meta too), u8 [bytes].
at::Tensor workspace(int64_t bytes, const at::Tensor& like);

/// Throw unless grad mode is off or no gradient of this backward is wanted: the op is of first order only.
/// Call it first in every first-order backward with its saved tensors and incoming gradients.
void refuse_second_order(std::string_view op, at::TensorList tensors);

}  // namespace axial::ops

/// Throw c10::ValueError (Python: ValueError) `[op] text` unless `condition` holds.
#define AXIAL_OP_CHECK(condition, op, ...) \
  TORCH_CHECK_VALUE((condition), ::axial::detail::located((op), ::fmt::format(__VA_ARGS__)))
