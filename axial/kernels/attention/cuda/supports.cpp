// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of attention take, and the workspace of their backward: known without a device, so
// that plans and Meta tensors ask the same.
#include "axial/kernels/attention/cuda/launch.h"
#include "axial/kernels/attention/cuda/passes.h"
#include "axial/kernels/attention/implementations.h"

namespace axial::kernels::attention::cuda {
namespace {

// P and dS are rounded to the dtype of q: a result in fp32 would promise more than it holds.
Status same_dtype(const char* what, const AttentionTensor& t, DType dtype) {
  if (t.data == nullptr || t.dtype == dtype) return {};
  return Status::unsupported(
      fmt::format("{}; expected {} as q, got {}", what, name_of(dtype), name_of(t.dtype)));
}

Status narrow_bias(const char* what, const AttentionBias& bias) {
  if (bias.data == nullptr || bias.dtype == DType::kF32 || bias.dtype == DType::kBF16 ||
      bias.dtype == DType::kF16) {
    return {};
  }
  return Status::unsupported(
      fmt::format("{}; expected float32, bfloat16 or float16, got {}", what, name_of(bias.dtype)));
}

Status supports_inputs(const AttentionInputs& in) {
  if (Status status = check_inputs(in); !status.ok()) return status;
  if (in.q.dtype != DType::kBF16 && in.q.dtype != DType::kF16) {
    return Status::unsupported(fmt::format("expected bfloat16 or float16, got {}", name_of(in.q.dtype)));
  }
  if (padded_width(in.sizes.width) == 0) {
    return Status::unsupported(fmt::format("width; expected at most {}, got {}", kMostWidth, in.sizes.width));
  }
  for (const AttentionBias& bias : in.bias) {
    if (Status status = narrow_bias("a bias", bias); !status.ok()) return status;
  }
  return {};
}

}  // namespace

Status supports(const AttentionForward& params) {
  if (Status status = supports_inputs(params.in); !status.ok()) return status;
  return same_dtype("the result", params.out, params.in.q.dtype);
}

Status supports(const AttentionBackward& params) {
  if (Status status = supports_inputs(params.in); !status.ok()) return status;
  for (const AttentionTensor* t : {&params.out, &params.dout, &params.dq, &params.dk, &params.dv}) {
    if (Status status = same_dtype("a result or gradient", *t, params.in.q.dtype); !status.ok())
      return status;
  }
  for (const AttentionBias& bias : params.dbias) {
    if (Status status = narrow_bias("the gradient of a bias", bias); !status.ok()) return status;
  }
  return {};
}

int64_t workspace_bytes(const AttentionBackward& params) {
  return passes_of(params).floats * static_cast<int64_t>(sizeof(float));
}

}  // namespace axial::kernels::attention::cuda
