// SPDX-License-Identifier: Apache-2.0
// What every op needs around a torch-free kernel: threads, dtype names, row views, workspace, checks.
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

/// torch's name of our dtype.
at::ScalarType scalar_type_of(DType dtype);

/// Dtype that sums and row statistics of `dtype` are kept in: fp64 for fp64, else fp32.
at::ScalarType accumulate_type(at::ScalarType dtype);

/// Uninitialised tensor, as at::empty_symint. A large one on the CPU asks the system for huge pages: the
/// first touch of 4 KiB pages costs as much as a pass of a fast kernel.
at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options);

/// Uninitialised workspace from torch's allocator on `like`'s device (Meta too), u8 [bytes].
at::Tensor workspace(int64_t bytes, const at::Tensor& like);

/// A tensor as rows of its last dim, as kernels take it.
struct RowView {
  at::Tensor tensor;   ///< keeps the storage alive; a copy when the strides do not form rows
  int64_t rows = 0;    ///< product of the leading dims
  int64_t cols = 0;    ///< size of the last dim
  int64_t stride = 0;  ///< elements from one row to the next
};

/// View `tensor` [.., C] as rows without a copy where the last dim is contiguous and the leading dims
/// collapse into one stride; else copy. Needs at least one dim and sizes that are not symbolic.
RowView as_rows(const at::Tensor& tensor);

/// True while torch.compile or make_fx traces with symbolic sizes: Meta kernels then size no workspace.
bool has_symbolic_sizes(const at::Tensor& tensor);

/// "[2, 3, 4]" for error messages, symbolic sizes included.
std::string shape_text(const at::Tensor& tensor);

/// Throw unless grad mode is off or no gradient of this backward is wanted: the op is of first order only.
/// Call it first in every first-order backward with its saved tensors and incoming gradients.
void refuse_second_order(std::string_view op, at::TensorList tensors);

}  // namespace axial::ops

/// Throw c10::ValueError (Python: ValueError) `[op] text` unless `condition` holds.
#define AXIAL_OP_CHECK(condition, op, ...) \
  TORCH_CHECK_VALUE((condition), ::axial::detail::located((op), ::fmt::format(__VA_ARGS__)))
