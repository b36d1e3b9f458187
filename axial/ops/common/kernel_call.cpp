// SPDX-License-Identifier: Apache-2.0
// The seam between torch and the torch-free kernels (kernel_call.h): nothing here knows an op.
#include "axial/ops/common/kernel_call.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <utility>

namespace axial::ops {
namespace {

constexpr std::pair<at::ScalarType, DType> kDtypes[] = {
    {at::kDouble, DType::kF64}, {at::kFloat, DType::kF32}, {at::kBFloat16, DType::kBF16},
    {at::kHalf, DType::kF16},   {at::kLong, DType::kI64},  {at::kInt, DType::kI32},
    {at::kShort, DType::kI16},  {at::kChar, DType::kI8},   {at::kByte, DType::kU8},
    {at::kBool, DType::kBool}};

constexpr size_t kHugePage = size_t{2} << 20;

// Best effort: only whole huge pages inside of the tensor, and a refusal changes nothing.
void ask_for_huge_pages([[maybe_unused]] const at::Tensor& tensor) {
#ifdef MADV_HUGEPAGE
  char* data = static_cast<char*>(tensor.mutable_data_ptr());
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
  const size_t inside = (tensor.nbytes() - before) / kHugePage * kHugePage;
  madvise(data + before, inside, MADV_HUGEPAGE);
#endif
}

}  // namespace

ParallelFor torch_parallel_for() {
  return [](int64_t n, int64_t grain, const RangeBody& body) {
    at::parallel_for(0, n, std::max<int64_t>(grain, 1),
                     [&body](int64_t begin, int64_t end) { body(begin, end); });
  };
}

DType dtype_of(const at::Tensor& tensor, std::string_view op) {
  for (const auto& [torch, ours] : kDtypes) {
    if (torch == tensor.scalar_type()) return ours;
  }
  fail<UnsupportedError>(op,
                         "unsupported dtype; expected float64, float32, bfloat16, float16, int64, int32, "
                         "int16, int8, uint8 or bool, got {}",
                         c10::toString(tensor.scalar_type()));
}

at::ScalarType scalar_type_of(DType dtype) {
  for (const auto& [torch, ours] : kDtypes) {
    if (ours == dtype) return torch;
  }
  fail("dtype", "no torch dtype for number {}", static_cast<int>(dtype));
}

at::ScalarType accumulate_type(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options) {
  at::Tensor tensor = at::empty_symint(sizes, options);
  const bool symbolic = has_symbolic_sizes(tensor) || tensor.key_set().has(c10::DispatchKey::Python);
  if (tensor.is_cpu() && !symbolic && tensor.nbytes() >= 2 * kHugePage) ask_for_huge_pages(tensor);
  return tensor;
}

at::Tensor workspace(int64_t bytes, const at::Tensor& like) {
  return empty({bytes}, like.options().dtype(at::kByte));
}

RowView as_rows(const at::Tensor& tensor) {
  AXIAL_DCHECK(tensor.dim() >= 1);
  RowView view{tensor, 0, tensor.size(-1), tensor.size(-1)};
  view.rows = 1;
  for (int64_t d = 0; d + 1 < tensor.dim(); ++d) view.rows *= tensor.size(d);
  if (tensor.is_contiguous()) return view;

  bool collapses = view.cols <= 1 || tensor.stride(-1) == 1;
  int64_t expected = -1;  // stride that the next leading dim must have to continue the rows below it
  for (int64_t d = tensor.dim() - 2; d >= 0 && collapses; --d) {
    if (tensor.size(d) == 1) continue;
    if (expected < 0) {
      view.stride = tensor.stride(d);
    } else {
      collapses = tensor.stride(d) == expected;
    }
    expected = tensor.stride(d) * tensor.size(d);
  }
  if (!collapses) {
    view.tensor = tensor.contiguous();
    view.stride = view.cols;
  }
  return view;
}

bool has_symbolic_sizes(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

std::string shape_text(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sym_sizes();
  return text.str();
}

void refuse_second_order(std::string_view op, at::TensorList tensors) {
  if (!c10::GradMode::is_enabled()) return;
  const bool wanted = std::any_of(tensors.begin(), tensors.end(),
                                  [](const at::Tensor& t) { return t.defined() && t.requires_grad(); });
  TORCH_CHECK_NOT_IMPLEMENTED(
      !wanted,
      detail::located(op,
                      "is of first order only: double backward is not supported; expected a backward "
                      "without create_graph, got create_graph=True"));
}

}  // namespace axial::ops
