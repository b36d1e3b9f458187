// SPDX-License-Identifier: Apache-2.0
// Argument checks, workspace and the choice of implementation for attention.h.
#include "axial/kernels/attention/attention.h"

#include <cmath>
#include <limits>

#include "axial/kernels/attention/implementations.h"
#include "axial/kernels/attention/plan.h"

namespace axial::kernels {
namespace {

constexpr Implementation<AttentionForward> kForward[] = {
    {"few", attention::few_supports, attention::few_forward},
    {"amx", attention::amx_supports_forward, attention::amx_forward},
    {"simd", attention::simd_supports_forward, attention::simd_forward},
    {"reference", supports_anything<AttentionForward>, attention::reference_forward},
};
constexpr Implementation<AttentionBackward> kBackward[] = {
    {"amx", attention::amx_supports_backward, attention::amx_backward},
    {"simd", attention::simd_supports_backward, attention::simd_backward},
    {"reference", supports_anything<AttentionBackward>, attention::reference_backward},
};

bool is_floating(DType dtype) { return dtype <= DType::kF16; }

}  // namespace

namespace attention {

Status check_inputs(const AttentionInputs& in) {
  const AttentionSizes& s = in.sizes;
  if (s.num_leading < 0 || s.num_leading > kMaxLeading) {
    return Status::invalid(
        fmt::format("leading dims; expected at most {}, got {}", kMaxLeading, s.num_leading));
  }
  if (s.width <= 0 || s.kv_heads <= 0 || s.heads <= 0 || s.heads % s.kv_heads != 0) {
    return Status::invalid(fmt::format(
        "expected a positive width and key/value heads that divide the heads, got width {}, {} and {} heads",
        s.width, s.kv_heads, s.heads));
  }
  if (s.keys > std::numeric_limits<int32_t>::max()) {
    return Status::unsupported(fmt::format("keys; expected below 2^31, got {}", s.keys));
  }
  if (!is_floating(in.q.dtype) || in.k.dtype != in.q.dtype || in.v.dtype != in.q.dtype) {
    return Status::unsupported(
        fmt::format("q, k and v; expected one of float64, float32, bfloat16, float16, got {}, {}, {}",
                    name_of(in.q.dtype), name_of(in.k.dtype), name_of(in.v.dtype)));
  }
  if (!std::isfinite(in.scale))
    return Status::invalid(fmt::format("scale; expected a number, got {}", in.scale));
  if (in.mask.query_block < 0 || (in.mask.query_block > 0 && in.mask.key_block <= 0)) {
    return Status::invalid("block mask; expected positive block sizes");
  }
  return {};
}

}  // namespace attention

namespace {

bool is_empty(const AttentionSizes& s) { return s.queries * s.keys * attention::leading_count(s) == 0; }

Status supports(const AttentionInputs& in) {
  if (in.q.dtype == DType::kF64)
    return Status::unsupported("expected float32, bfloat16 or float16, got float64");
  for (const AttentionBias& bias : in.bias) {
    if (bias.data != nullptr && bias.dtype == DType::kF64) return Status::unsupported("a bias is float64");
  }
  if (is_empty(in.sizes)) return Status::unsupported("nothing to compute");
  return {};
}

}  // namespace

namespace attention {

Status simd_supports_forward(const AttentionForward& params) { return supports(params.in); }
Status simd_supports_backward(const AttentionBackward& params) {
  for (const AttentionBias& bias : params.dbias) {
    if (bias.data != nullptr && bias.dtype == DType::kF64)
      return Status::unsupported("a gradient is float64");
  }
  return supports(params.in);
}

}  // namespace attention

std::span<const Implementation<AttentionForward>> attention_forward_table() { return kForward; }
std::span<const Implementation<AttentionBackward>> attention_backward_table() { return kBackward; }

int64_t workspace_bytes(const AttentionForward& params) {
  if (attention::few_supports(params).ok()) return attention::few_workspace(params);
  return attention::simd_supports_forward(params).ok() ? attention::simd_workspace(params)
                                                       : attention::reference_workspace(params);
}

int64_t workspace_bytes(const AttentionBackward& params) {
  return attention::simd_supports_backward(params).ok() ? attention::simd_workspace(params)
                                                        : attention::reference_workspace(params);
}

int64_t tile_workspace_bytes(const AttentionForward& params) {
  return attention::few_supports(params).ok() ? 0 : attention::amx_workspace(params);
}

int64_t tile_workspace_bytes(const AttentionBackward& params) { return attention::amx_workspace(params); }

Status attention_forward(const AttentionForward& params, const ParallelFor& parallel_for) {
  if (Status checked = attention::check_inputs(params.in); !checked.ok()) return checked;
  return run_first(attention_forward_table(), params, parallel_for);
}

Status attention_backward(const AttentionBackward& params, const ParallelFor& parallel_for) {
  if (Status checked = attention::check_inputs(params.in); !checked.ok()) return checked;
  return run_first(attention_backward_table(), params, parallel_for);
}

}  // namespace axial::kernels
