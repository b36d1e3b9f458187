// SPDX-License-Identifier: Apache-2.0
// Dispatcher ops, checks, Meta kernels and autograd of segment_attention and cached_attention.
#include "axial/ops/attention/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>

#include "axial/ops/attention/segment_walk.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Tensor3 = std::tuple<Tensor, Tensor, Tensor>;

constexpr const char* kOp = "segment_attention";
constexpr const char* kCached = "cached_attention";

bool is_supported(at::ScalarType type) {
  return type == at::kDouble || type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

// Shapes and dtypes, which Meta tensors have too; T tokens, H heads, G key/value heads, D width.
void check_shapes(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                  const OptionalTensor& slopes) {
  AXIAL_OP_CHECK(q.dim() == 3 && k.dim() == 3 && v.dim() == 3, kOp,
                 "q, k and v need 3 dims; expected [T, H, D], [T, G, D] twice, got {}, {} and {}",
                 shape_text(q), shape_text(k), shape_text(v));
  AXIAL_OP_CHECK(k.sizes() == v.sizes() && k.size(0) == q.size(0) && k.size(2) == q.size(2), kOp,
                 "k and v do not fit q; expected [{}, G, {}] for both, got {} and {}", q.size(0), q.size(2),
                 shape_text(k), shape_text(v));
  AXIAL_OP_CHECK(
      q.size(1) > 0 && k.size(1) > 0 && q.size(2) > 0 && q.size(1) % k.size(1) == 0, kOp,
      "key/value heads must divide query heads and D be positive; got {} query and {} key/value heads, D {}",
      q.size(1), k.size(1), q.size(2));
  AXIAL_OP_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(), kOp,
                 "q, k and v differ in dtype: {}, {} and {}", at::toString(q.scalar_type()),
                 at::toString(k.scalar_type()), at::toString(v.scalar_type()));
  AXIAL_OP_CHECK(is_supported(q.scalar_type()), kOp,
                 "unsupported dtype; expected float64, float32, bfloat16 or float16, got {}",
                 at::toString(q.scalar_type()));
  AXIAL_OP_CHECK(segments.dim() == 1 && segments.numel() > 0 &&
                     (segments.scalar_type() == at::kLong || segments.scalar_type() == at::kInt),
                 kOp, "segments must be [S + 1] int64 or int32; got {} {}", shape_text(segments),
                 at::toString(segments.scalar_type()));
  AXIAL_OP_CHECK(!slopes || (slopes->dim() == 1 && slopes->size(0) == q.size(1)), kOp,
                 "alibi_slopes must hold one slope per query head; expected [{}], got {}", q.size(1),
                 slopes ? shape_text(*slopes) : "");
}

void check_borders(const Tensor& borders, int64_t tokens) {
  const int64_t* b = borders.const_data_ptr<int64_t>();
  const int64_t last = borders.numel() - 1;
  AXIAL_OP_CHECK(b[0] == 0 && b[last] == tokens, kOp,
                 "segments must run from 0 to the number of tokens; expected 0 and {}, got {} and {}", tokens,
                 b[0], b[last]);
  for (int64_t s = 0; s < last; ++s) {
    AXIAL_OP_CHECK(b[s] <= b[s + 1], kOp, "segments fall at entry {}: {} comes after {}", s + 1, b[s + 1],
                   b[s]);
  }
}

Tensor rows_contiguous(const Tensor& t) { return t.stride(-1) == 1 || t.size(-1) == 1 ? t : t.contiguous(); }

at::ScalarType statistic_type(const Tensor& q) {
  return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

detail::SegmentProblem problem_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                                  const OptionalTensor& slopes, double scale) {
  check_shapes(q, k, v, segments, slopes);
  AXIAL_OP_CHECK(segments.device().is_cpu(), kOp, "segments must be on the host; got {}",
                 segments.device().str());
  detail::SegmentProblem p{rows_contiguous(q),
                           rows_contiguous(k),
                           rows_contiguous(v),
                           segments.to(at::kLong).contiguous(),
                           {},
                           scale};
  if (slopes) p.slopes = slopes->to(at::kCPU, at::kDouble).contiguous();
  check_borders(p.segments, q.size(0));
  return p;
}

std::tuple<Tensor, Tensor> forward_meta(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const Tensor& segments, const OptionalTensor& slopes, double) {
  check_shapes(q, k, v, segments, slopes);
  return {at::empty(q.sizes(), q.options()),
          at::empty({q.size(1), q.size(0)}, q.options().dtype(statistic_type(q)))};
}

std::tuple<Tensor, Tensor> forward_cpu(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& segments, const OptionalTensor& slopes, double scale) {
  const detail::SegmentProblem p = problem_of(q, k, v, segments, slopes, scale);
  auto results = forward_meta(q, k, v, segments, slopes, scale);
  detail::segment_attention_forward(p, std::get<0>(results), std::get<1>(results));
  return results;
}

Tensor3 backward_meta(const Tensor&, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor&,
                      const Tensor&, const Tensor&, const OptionalTensor&, double) {
  return {at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()),
          at::empty(v.sizes(), v.options())};
}

Tensor3 backward_cpu(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                     const Tensor& lse, const Tensor& segments, const OptionalTensor& slopes, double scale) {
  const detail::SegmentProblem p = problem_of(q, k, v, segments, slopes, scale);
  auto grads = backward_meta(grad, q, k, v, out, lse, segments, slopes, scale);
  detail::segment_attention_backward(p, out.contiguous(), lse.contiguous(), rows_contiguous(grad),
                                     std::get<0>(grads), std::get<1>(grads), std::get<2>(grads));
  return grads;
}

std::tuple<Tensor, Tensor> call_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const Tensor& segments, const OptionalTensor& slopes, double scale) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("axial::segment_attention", "")
                       .typed<decltype(forward_cpu)>();
  return op.call(q, k, v, segments, slopes, scale);
}

Tensor3 call_backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& out, const Tensor& lse, const Tensor& segments,
                      const OptionalTensor& slopes, double scale) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("axial::segment_attention_backward", "")
                       .typed<decltype(backward_cpu)>();
  return op.call(grad, q, k, v, out, lse, segments, slopes, scale);
}

struct SegmentAttention : torch::autograd::Function<SegmentAttention> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& segments, const OptionalTensor& slopes, double scale) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, lse] = call_forward(q, k, v, segments, slopes, scale);
    ctx->save_for_backward({q, k, v, out, lse, segments, slopes.value_or(Tensor())});
    ctx->mark_non_differentiable({lse});
    ctx->saved_data["scale"] = scale;
    return {out, lse};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    refuse_second_order(kOp, {grads[0], saved[0], saved[1], saved[2]});
    const OptionalTensor slopes = saved[6].defined() ? OptionalTensor(saved[6]) : std::nullopt;
    auto [gq, gk, gv] = call_backward(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
                                      slopes, ctx->saved_data["scale"].toDouble());
    return {gq, gk, gv, Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> forward_autograd(const Tensor& q, const Tensor& k, const Tensor& v,
                                            const Tensor& segments, const OptionalTensor& slopes,
                                            double scale) {
  const variable_list results = SegmentAttention::apply(q, k, v, segments, slopes, scale);
  return {results[0], results[1]};
}

void check_cached(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lengths,
                  const OptionalTensor& slopes) {
  AXIAL_OP_CHECK(q.dim() == 4 && k.dim() == 4 && k.sizes() == v.sizes() && k.size(0) == q.size(0) &&
                     k.size(3) == q.size(3),
                 kCached,
                 "shapes do not fit; expected q [B, N, H, D] and caches [B, M, G, D], got {}, {} and {}",
                 shape_text(q), shape_text(k), shape_text(v));
  AXIAL_OP_CHECK(k.size(2) > 0 && q.size(2) % k.size(2) == 0, kCached,
                 "key/value heads must divide query heads; got {} and {}", q.size(2), k.size(2));
  AXIAL_OP_CHECK(lengths.dim() == 1 && lengths.size(0) == q.size(0), kCached,
                 "lengths must hold one entry per sequence; expected [{}], got {}", q.size(0),
                 shape_text(lengths));
  AXIAL_OP_CHECK(!slopes || slopes->numel() == q.size(2), kCached,
                 "alibi_slopes must hold one slope per query head; expected [{}], got {}", q.size(2),
                 slopes ? shape_text(*slopes) : "");
}

Tensor cached_meta(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lengths,
                   const OptionalTensor& slopes, double) {
  check_cached(q, k, v, lengths, slopes);
  return at::empty(q.sizes(), q.options());
}

// One sequence: q [N, H, D] over k, v [M', G, D] with `cached` entries before the new ones.
Tensor cached_one(const Tensor& q, const Tensor& k, const Tensor& v, int64_t cached,
                  const OptionalTensor& slopes, double scale) {
  const int64_t n = q.size(0), heads = q.size(1), groups = k.size(1), total = k.size(0);
  const auto type = statistic_type(q);
  const Tensor grouped =
      q.to(type).view({n, groups, heads / groups, -1}).permute({1, 2, 0, 3}).reshape({groups, -1, q.size(2)});
  Tensor scores = at::bmm(grouped, k.to(type).permute({1, 2, 0})).mul_(scale);  // [G, H/G * N, M']
  scores = scores.view({groups, heads / groups, n, total});
  const Tensor query = at::arange(cached, cached + n, at::kLong).unsqueeze(1);
  const Tensor distance = at::arange(total, at::kLong).unsqueeze(0) - query;  // [N, M'], key - query
  if (slopes) scores += slopes->to(type).view({groups, heads / groups, 1, 1}) * distance.to(type);
  scores.masked_fill_(distance > 0, -INFINITY);
  const Tensor p = at::softmax(scores, -1).view({groups, -1, total});
  const Tensor out = at::bmm(p, v.to(type).transpose(0, 1));  // [G, H/G * N, D]
  return out.view({groups, heads / groups, n, -1}).permute({2, 0, 1, 3}).reshape({n, heads, -1});
}

Tensor cached_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lengths,
                  const OptionalTensor& slopes, double scale) {
  check_cached(q, k, v, lengths, slopes);
  const Tensor host = lengths.to(at::kCPU, at::kLong).contiguous();
  Tensor out = at::empty(q.sizes(), q.options());
  for (int64_t b = 0; b < q.size(0); ++b) {
    const int64_t cached = host.const_data_ptr<int64_t>()[b], total = cached + q.size(1);
    AXIAL_OP_CHECK(cached >= 0 && total <= k.size(1), kCached,
                   "sequence {} does not fit the cache; expected {} cached + {} new <= {}", b, cached,
                   q.size(1), k.size(1));
    if (q.size(1) == 0) continue;
    out[b].copy_(cached_one(q[b].contiguous(), k[b].narrow(0, 0, total), v[b].narrow(0, 0, total), cached,
                            slopes, scale));
  }
  return out;
}

}  // namespace

Tensor segment_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                         const OptionalTensor& alibi_slopes, std::optional<double> scale) {
  check_shapes(q, k, v, segments, alibi_slopes);
  const double factor = scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(2))));
  return std::get<0>(call_forward(q, k, v, segments, alibi_slopes, factor));
}

Tensor cached_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, const Tensor& lengths,
                        const OptionalTensor& alibi_slopes, std::optional<double> scale) {
  check_cached(q, k_cache, v_cache, lengths, alibi_slopes);
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("axial::cached_attention", "")
                       .typed<decltype(cached_cpu)>();
  return op.call(q, k_cache, v_cache, lengths, alibi_slopes,
                 scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(3)))));
}

void register_attention(torch::Library& registry) {
  registry.def(
      "segment_attention(Tensor q, Tensor k, Tensor v, Tensor segments, Tensor? alibi_slopes, float scale)"
      " -> (Tensor, Tensor)");
  registry.def(
      "segment_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_sum_exp,"
      " Tensor segments, Tensor? alibi_slopes, float scale) -> (Tensor, Tensor, Tensor)");
  registry.def(
      "cached_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor lengths, Tensor? alibi_slopes,"
      " float scale) -> Tensor");
  registry.impl("segment_attention", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(forward_cpu)));
  registry.impl("segment_attention", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(forward_meta)));
  registry.impl("segment_attention", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(forward_autograd)));
  registry.impl("segment_attention_backward", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(backward_cpu)));
  registry.impl("segment_attention_backward",
                torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(backward_meta)));
  registry.impl("cached_attention", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(cached_cpu)));
  registry.impl("cached_attention", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(cached_meta)));
}

}  // namespace axial::ops
