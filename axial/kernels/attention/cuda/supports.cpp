// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of attention take, and the workspace of their backward: known without a device, so
// that plans and Meta tensors ask the same.
#include "axial/kernels/attention/cuda/launch.h"
#include "axial/kernels/attention/cuda/passes.h"

namespace axial::kernels::attention::cuda {
namespace {

Status supports_inputs(const AttentionInputs& in) {
  if (in.q.dtype != DType::kBF16 && in.q.dtype != DType::kF16) {
    return Status::unsupported(fmt::format("expected bfloat16 or float16, got {}", name_of(in.q.dtype)));
  }
  if (padded_width(in.sizes.width) == 0) {
    return Status::unsupported(fmt::format("width; expected at most {}, got {}", kMostWidth, in.sizes.width));
  }
  for (const AttentionBias& bias : in.bias) {
    if (bias.data != nullptr && bias.dtype == DType::kF64) return Status::unsupported("a bias is float64");
  }
  if (in.sizes.queries * in.sizes.keys * leading_count(in.sizes) == 0) {
    return Status::unsupported("nothing to compute");
  }
  return {};
}

}  // namespace

Status supports(const AttentionForward& params) {
  if (params.out.dtype == DType::kF64) return Status::unsupported("a float64 result");
  return supports_inputs(params.in);
}

Status supports(const AttentionBackward& params) {
  if (params.dout.dtype != params.in.q.dtype) {
    return Status::unsupported(fmt::format("gradient of the output; expected {}, got {}",
                                           name_of(params.in.q.dtype), name_of(params.dout.dtype)));
  }
  for (const AttentionBias& bias : params.dbias) {
    if (bias.data != nullptr && bias.dtype == DType::kF64)
      return Status::unsupported("a gradient is float64");
  }
  return supports_inputs(params.in);
}

int64_t workspace_bytes(const AttentionBackward& params) {
  return passes_of(params).floats * static_cast<int64_t>(sizeof(float));
}

}  // namespace axial::kernels::attention::cuda
