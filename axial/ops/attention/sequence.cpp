// SPDX-License-Identifier: Apache-2.0
// Attention as language models call it: packed segments, and new tokens over a key/value cache.
#include <ATen/ops/arange.h>

#include "axial/ops/attention/attention.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

constexpr std::string_view kCached = "cached_attention";

void check_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& lengths) {
  AXIAL_OP_CHECK(q.dim() == 4 && k.dim() == 4 && k.sizes() == v.sizes() && k.size(0) == q.size(0), kCached,
                 "shapes do not fit; expected q [B, N, H, D] and caches [B, M, G, D], got {}, {} and {}",
                 shape_text(q), shape_text(k), shape_text(v));
  AXIAL_OP_CHECK(lengths.dim() == 1 && lengths.size(0) == q.size(0) && lengths.scalar_type() == at::kLong,
                 kCached, "lengths; expected int64 [{}], got {}", q.size(0), shape_text(lengths));
  if (lengths.is_meta()) return;
  AXIAL_OP_CHECK(lengths.is_cpu(), kCached, "lengths; expected on the host, got {}", lengths.device().str());
  const at::Tensor host = lengths.contiguous();
  for (int64_t b = 0; b < q.size(0); ++b) {
    const int64_t cached = host.const_data_ptr<int64_t>()[b];
    AXIAL_OP_CHECK(cached >= 0 && cached + q.size(1) <= k.size(1), kCached,
                   "sequence {} does not fit the cache; expected {} cached + {} new <= {}", b, cached,
                   q.size(1), k.size(1));
  }
}

}  // namespace

at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& segments, const OptionalTensor& alibi_slopes,
                             std::optional<double> scale) {
  AttentionPattern pattern;
  pattern.causal = true;
  pattern.segments = segments;
  pattern.alibi_slopes = alibi_slopes;
  return attention(q, k, v, std::nullopt, std::nullopt, pattern, scale);
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k_cache, const at::Tensor& v_cache,
                            const at::Tensor& lengths, const OptionalTensor& alibi_slopes,
                            std::optional<double> scale) {
  check_cached(q, k_cache, v_cache, lengths);
  const at::Tensor positions = lengths.unsqueeze(1) + at::arange(q.size(1), lengths.options());  // [B, N]
  AttentionPattern pattern;
  pattern.key_begin = at::arange(1, lengths.options());  // zero
  pattern.key_end = positions + 1;
  pattern.q_positions = positions;
  pattern.alibi_slopes = alibi_slopes;
  return attention(q, k_cache, v_cache, std::nullopt, std::nullopt, pattern, scale);
}

}  // namespace axial::ops
