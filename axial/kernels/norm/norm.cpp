// SPDX-License-Identifier: Apache-2.0
// Argument checks and the choice of implementation for norm.h.
#include "axial/kernels/norm/norm.h"

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/norm/implementations.h"

namespace axial::kernels {
namespace {

constexpr Implementation<NormForward> kForward[] = {
    {"simd", supports_narrow_floats<NormForward>, norm::simd_forward},
    {"reference", supports_anything<NormForward>, norm::reference_forward},
};
constexpr Implementation<NormBackward> kBackward[] = {
    {"simd", supports_narrow_floats<NormBackward>, norm::simd_backward},
    {"reference", supports_anything<NormBackward>, norm::reference_backward},
};

template <class Params>
Status check(const Params& params) {
  if (params.rows < 0 || params.cols <= 0) {
    return Status::invalid(
        fmt::format("expected rows >= 0 and columns > 0, got {} x {}", params.rows, params.cols));
  }
  if (params.dtype > DType::kF16) {
    return Status::unsupported(
        fmt::format("expected float64, float32, bfloat16 or float16, got {}", name_of(params.dtype)));
  }
  return {};
}

}  // namespace

std::span<const Implementation<NormForward>> norm_forward_table() { return kForward; }
std::span<const Implementation<NormBackward>> norm_backward_table() { return kBackward; }

int64_t workspace_bytes(const NormBackward& params) {
  const int64_t statistic = params.dtype == DType::kF64 ? 8 : 4;
  return row_splits(params.rows).count * 2 * params.cols * statistic;
}

Status norm_forward(const NormForward& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  return run_first(norm_forward_table(), params, parallel_for);
}

Status norm_backward(const NormBackward& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  return run_first(norm_backward_table(), params, parallel_for);
}

}  // namespace axial::kernels
