// SPDX-License-Identifier: Apache-2.0
// Argument checks and the choice of implementation for activation.h.
#include "axial/kernels/activation/activation.h"

#include "axial/kernels/activation/implementations.h"
#include "axial/kernels/common/row_splits.h"

namespace axial::kernels {
namespace {

constexpr Implementation<ActivationForward> kForward[] = {
    {"simd", supports_narrow_floats<ActivationForward>, activation::simd_forward},
    {"reference", supports_anything<ActivationForward>, activation::reference_forward},
};
constexpr Implementation<ActivationBackward> kBackward[] = {
    {"simd", supports_narrow_floats<ActivationBackward>, activation::simd_backward},
    {"reference", supports_anything<ActivationBackward>, activation::reference_backward},
};
constexpr Implementation<GatedForward> kGatedForward[] = {
    {"simd", supports_narrow_floats<GatedForward>, activation::simd_gated_forward},
    {"reference", supports_anything<GatedForward>, activation::reference_gated_forward},
};
constexpr Implementation<GatedBackward> kGatedBackward[] = {
    {"simd", supports_narrow_floats<GatedBackward>, activation::simd_gated_backward},
    {"reference", supports_anything<GatedBackward>, activation::reference_gated_backward},
};

template <class Params>
Status checked_run(std::span<const Implementation<Params>> table, const Params& params,
                   const ParallelFor& parallel_for) {
  if (params.rows < 0 || params.cols < 0) {
    return Status::invalid(fmt::format("expected sizes >= 0, got {} x {}", params.rows, params.cols));
  }
  if (params.dtype > DType::kF16) {
    return Status::unsupported(
        fmt::format("expected float64, float32, bfloat16 or float16, got {}", name_of(params.dtype)));
  }
  return run_first(table, params, parallel_for);
}

}  // namespace

std::span<const Implementation<ActivationForward>> activation_forward_table() { return kForward; }
std::span<const Implementation<ActivationBackward>> activation_backward_table() { return kBackward; }
std::span<const Implementation<GatedForward>> gated_forward_table() { return kGatedForward; }
std::span<const Implementation<GatedBackward>> gated_backward_table() { return kGatedBackward; }

int64_t workspace_bytes(const ActivationBackward& params) {
  return row_splits(params.rows).count * params.cols * (params.dtype == DType::kF64 ? 8 : 4);
}

Status activation_forward(const ActivationForward& params, const ParallelFor& parallel_for) {
  return checked_run(activation_forward_table(), params, parallel_for);
}
Status activation_backward(const ActivationBackward& params, const ParallelFor& parallel_for) {
  return checked_run(activation_backward_table(), params, parallel_for);
}
Status gated_forward(const GatedForward& params, const ParallelFor& parallel_for) {
  return checked_run(gated_forward_table(), params, parallel_for);
}
Status gated_backward(const GatedBackward& params, const ParallelFor& parallel_for) {
  return checked_run(gated_backward_table(), params, parallel_for);
}

}  // namespace axial::kernels
