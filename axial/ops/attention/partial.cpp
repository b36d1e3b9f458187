// SPDX-License-Identifier: Apache-2.0
// The dispatcher ops of partial.h and the merge.
//
//   axial::attention_partial           output and row statistics in the dtype of sums          CPU, Meta
//   axial::attention_partial_backward  a piece's share of the gradients that `mask` asks for   CPU, Meta
#include "axial/ops/attention/partial.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "axial/kernels/attention/merge.h"
#include "axial/ops/attention/call.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

using at::Tensor;
using detail::GradientMask;
using detail::Gradients;
using detail::PatternTensors;

constexpr std::string_view kOp = "attention_partial";

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const OptionalTensor& bias1, const OptionalTensor& bias2,
                                   const PatternTensors& pattern, at::IntArrayRef numbers, double scale) {
  return detail::run_forward({q, k, v, bias1, bias2, detail::pattern_of(pattern, numbers), scale},
                             accumulate_type(q.scalar_type()), true);
}

Gradients backward(const Tensor& grad, const Tensor& out, const Tensor& statistics, const Tensor& q,
                   const Tensor& k, const Tensor& v, const OptionalTensor& bias1, const OptionalTensor& bias2,
                   const PatternTensors& pattern, at::IntArrayRef numbers, double scale, GradientMask mask) {
  return detail::run_backward({q, k, v, bias1, bias2, detail::pattern_of(pattern, numbers), scale},
                              {grad, out, statistics, true, mask});
}

template <class F>
auto operator_of(const char* name, const F&) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

const auto& forward_op() {
  static const auto op = operator_of("axial::attention_partial", forward);
  return op;
}

const auto& backward_op() {
  static const auto op = operator_of("axial::attention_partial_backward", backward);
  return op;
}

// A gradient through a piece alone would be wrong once it is merged: the function around the pieces has it.
void refuse_gradient(std::initializer_list<OptionalTensor> tensors) {
  if (!at::GradMode::is_enabled()) return;
  for (const OptionalTensor& t : tensors) {
    AXIAL_OP_CHECK(!t || !t->requires_grad(), kOp, "inputs; expected none that requires grad, got one of {}",
                   shape_text(*t));
  }
}

std::tuple<Tensor, Tensor> forward_without_graph(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const OptionalTensor& bias1, const OptionalTensor& bias2,
                                                 const PatternTensors& pattern, at::IntArrayRef numbers,
                                                 double scale) {
  refuse_gradient({q, k, v, bias1, bias2});
  const at::AutoDispatchBelowADInplaceOrView below;
  return forward_op().call(q, k, v, bias1, bias2, pattern, numbers, scale);
}

Gradients backward_without_graph(const Tensor& grad, const Tensor& out, const Tensor& statistics,
                                 const Tensor& q, const Tensor& k, const Tensor& v,
                                 const OptionalTensor& bias1, const OptionalTensor& bias2,
                                 const PatternTensors& pattern, at::IntArrayRef numbers, double scale,
                                 GradientMask mask) {
  refuse_gradient({grad, out, statistics, q, k, v, bias1, bias2});
  const at::AutoDispatchBelowADInplaceOrView below;
  return backward_op().call(grad, out, statistics, q, k, v, bias1, bias2, pattern, numbers, scale, mask);
}

kernels::PartialAttention bound(const AttentionPartial& p) {
  const Tensor &out = p.out, &statistics = p.statistics;
  return {out.mutable_data_ptr(),        out.stride(0),        out.stride(1),        out.stride(2),
          statistics.mutable_data_ptr(), statistics.stride(0), statistics.stride(1), statistics.stride(2)};
}

void check_merge(const AttentionPartial& sum, const AttentionPartial& piece) {
  AXIAL_OP_CHECK(
      sum.out.dim() >= 3 && sum.out.sizes() == piece.out.sizes() &&
          sum.statistics.sizes() == piece.statistics.sizes() && sum.statistics.dim() == sum.out.dim() &&
          sum.statistics.size(-1) == 2 && sum.statistics.size(-2) == sum.out.size(-3) &&
          sum.statistics.size(-3) == sum.out.size(-2),
      kOp, "shapes of a merge; expected two of [.., I, H, D] and [.., H, I, 2], got {} and {}, {} and {}",
      shape_text(sum.out), shape_text(sum.statistics), shape_text(piece.out), shape_text(piece.statistics));
  for (const Tensor* t : {&sum.out, &sum.statistics, &piece.out, &piece.statistics}) {
    AXIAL_OP_CHECK(t->scalar_type() == sum.out.scalar_type() && (t->stride(-1) == 1 || t->size(-1) <= 1), kOp,
                   "tensors of a merge; expected one dtype and contiguous last dims, got {} with stride {}",
                   c10::toString(t->scalar_type()), t->stride(-1));
  }
}

}  // namespace

AttentionPartial attention_partial(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const OptionalTensor& bias1, const OptionalTensor& bias2,
                                   const AttentionPattern& pattern, double scale) {
  auto [out, statistics] = forward_op().call(q, k, v, bias1, bias2, detail::tensors_of(pattern),
                                             detail::numbers_of(pattern), scale);
  return {std::move(out), std::move(statistics)};
}

AttentionPartial empty_partial(const Tensor& q) {
  const auto options = q.options().dtype(accumulate_type(q.scalar_type())).requires_grad(false);
  std::vector<int64_t> shape = q.sizes().vec();
  Tensor out = at::zeros(shape, options);
  std::swap(shape[shape.size() - 3], shape[shape.size() - 2]);
  shape.back() = 2;
  Tensor statistics = at::zeros(shape, options);
  statistics.select(-1, 0).fill_(-std::numeric_limits<double>::infinity());
  return {std::move(out), std::move(statistics)};
}

void merge_partials(const AttentionPartial& sum, const AttentionPartial& piece) {
  check_merge(sum, piece);
  if (sum.out.is_meta()) return;
  if (sum.out.dim() > 4) {
    for (int64_t x = 0; x < sum.out.size(0); ++x) {
      merge_partials({sum.out.select(0, x), sum.statistics.select(0, x)},
                     {piece.out.select(0, x), piece.statistics.select(0, x)});
    }
    return;
  }
  const auto whole = [](const AttentionPartial& p) {
    if (p.out.dim() == 4) return p;
    return AttentionPartial{p.out.unsqueeze(0), p.statistics.unsqueeze(0)};
  };
  const AttentionPartial to = whole(sum), from = whole(piece);
  const kernels::AttentionMerge params{to.out.size(0),        to.out.size(1), to.out.size(2), to.out.size(3),
                                       dtype_of(to.out, kOp), bound(to),      bound(from)};
  throw_if_failed(kernels::merge_attention(params, torch_parallel_for()), kOp);
}

AttentionGradients attention_partial_backward(const Tensor& grad, const AttentionPartial& merged,
                                              const Tensor& q, const Tensor& k, const Tensor& v,
                                              const OptionalTensor& bias1, const OptionalTensor& bias2,
                                              const AttentionPattern& pattern, double scale,
                                              std::array<bool, 5> wanted) {
  auto [dq, dk, dv, db1, db2] =
      backward_op().call(grad, merged.out, merged.statistics.contiguous(), q, k, v, bias1, bias2,
                         detail::tensors_of(pattern), detail::numbers_of(pattern), scale, wanted);
  return {std::move(dq), std::move(dk), std::move(dv), std::move(db1), std::move(db2)};
}

void detail::register_partial(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def(
      "attention_partial(Tensor q, Tensor k, Tensor v, Tensor? bias1, Tensor? bias2, Tensor?[] pattern,"
      " int[] numbers, float scale) -> (Tensor, Tensor)",
      tags);
  registry.def(
      "attention_partial_backward(Tensor grad, Tensor out, Tensor statistics, Tensor q, Tensor k, Tensor v,"
      " Tensor? bias1, Tensor? bias2, Tensor?[] pattern, int[] numbers, float scale, bool[5] mask)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("attention_partial", torch::dispatch(key, TORCH_FN(forward)));
    registry.impl("attention_partial_backward", torch::dispatch(key, TORCH_FN(backward)));
  }
  registry.impl("attention_partial",
                torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(forward_without_graph)));
  registry.impl("attention_partial_backward",
                torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(backward_without_graph)));
}

}  // namespace axial::ops
