// SPDX-License-Identifier: Apache-2.0
// Owner of cached positions: the only place that knows which rank holds which.
#include "axial/parallel/sequence_attention/cached.h"

#include <ATen/ATen.h>

#include <cmath>

#include "axial/core/check/check.h"
#include "axial/ops/attention/attention.h"
#include "axial/ops/attention/partial.h"
#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "decode";

// Position p lies on rank p % size, as its entry p / size.
struct Share {
  int64_t rank = 0;
  int64_t size = 1;
  Axes axes;

  static Share of(const StepContext& context) {
    if (context.ranks == nullptr) return {};
    const Mesh& mesh = context.ranks->mesh();
    const Axes axes = mesh.sequence_axes();
    return {mesh.group_rank(axes, mesh.rank()), mesh.group_size(axes), axes};
  }
  int64_t entries(int64_t positions) const { return (positions - rank + size - 1) / size; }
};

// Write the held ones of the new entries [B, N, G, D] behind those cached; the cache is made on first use.
const at::Tensor& append(const at::Tensor& fresh, const std::string& name, const char* part,
                         const Share& share, DecodeState& state) {
  const int64_t batch = fresh.size(0), count = fresh.size(1);
  AXIAL_CHECK(state.lengths.defined() && state.lengths.dim() == 1 && state.lengths.size(0) == batch &&
                  state.lengths.scalar_type() == at::kLong && state.lengths.is_cpu(),
              kOp, "lengths of the decode state; expected [{}] int64 on the host", batch);
  at::Tensor& cache = state.blocks[name][part];
  const int64_t entries = (state.capacity + share.size - 1) / share.size;
  if (!cache.defined()) cache = at::empty({batch, entries, fresh.size(2), fresh.size(3)}, fresh.options());
  AXIAL_CHECK(cache.size(0) == batch, kOp, "batch of the decode state; expected {} sequences, got {}",
              cache.size(0), batch);
  const auto lengths = state.lengths.accessor<int64_t, 1>();
  for (int64_t b = 0; b < batch; ++b) {
    AXIAL_CHECK(lengths[b] >= 0 && lengths[b] + count <= state.capacity, kOp,
                "cache of sequence {} is full; expected at most {} positions, got {}", b, state.capacity,
                lengths[b] + count);
    const int64_t first = share.entries(lengths[b]), end = share.entries(lengths[b] + count);
    if (first == end) continue;
    const int64_t from = first * share.size + share.rank - lengths[b];
    cache.select(0, b)
        .narrow(0, first, end - first)
        .copy_(fresh.select(0, b).slice(0, from, count, share.size));
  }
  return cache;
}

// Over the entries of this rank alone.
ops::AttentionPartial partial(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                              const CachedAttentionOptions& options, const Share& share,
                              const at::Tensor& lengths) {
  ops::AttentionPattern pattern;
  pattern.causal = true;
  pattern.window = options.window;
  pattern.alibi_slopes = options.alibi_slopes;
  pattern.q_positions = lengths.unsqueeze(1) + at::arange(q.size(1), lengths.options());
  pattern.k_positions = at::arange(keys.size(1), lengths.options()) * share.size + share.rank;
  ops::OptionalTensor bias;
  if (options.mask)
    bias = options.mask->cached_bias(*pattern.q_positions, *pattern.k_positions, q.scalar_type());
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  return ops::attention_partial(q, keys, values, bias, std::nullopt, pattern, scale);
}

}  // namespace

at::Tensor cached_sequence_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const std::string& name, const CachedAttentionOptions& options,
                                     const StepContext& context) {
  const at::NoGradGuard no_grad;
  DecodeState& state = *context.decode;
  const Share share = Share::of(context);
  const at::Tensor& keys = append(k.detach(), name, "k", share, state);
  const at::Tensor& values = append(v.detach(), name, "v", share, state);
  if (share.size == 1 && options.window == 0 && options.mask == nullptr) {
    return ops::cached_attention(q.detach(), keys, values, state.lengths, options.alibi_slopes, std::nullopt);
  }
  const ops::AttentionPartial own = partial(q.detach(), keys, values, options, share, state.lengths);
  if (share.size == 1) return own.out.to(q.scalar_type());
  const at::Tensor rows =
      at::cat({own.out, own.statistics.transpose(1, 2)}, 3).unsqueeze(0);  // [1, B, N, H, D + 2]
  const at::Tensor all = context.ranks->all_gather(rows, 0, share.axes);
  const ops::AttentionPartial sum = ops::empty_partial(q);
  for (const at::Tensor& piece : all.unbind(0)) {
    const int64_t width = q.size(3);
    ops::merge_partials(sum, {piece.narrow(3, 0, width).contiguous(),
                              piece.narrow(3, width, 2).transpose(1, 2).contiguous()});
  }
  return sum.out.to(q.scalar_type());
}

}  // namespace axial::parallel
