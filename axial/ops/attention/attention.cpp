// SPDX-License-Identifier: Apache-2.0
// The dispatcher ops of attention.h and their autograd.
//
//   axial::attention            what users call; with a gradient wanted it goes through Autograd
//   axial::evoformer_attention  the same with two biases alone
//   axial::attention_forward    output and, if asked, the row statistics that backward needs   CPU, Meta
//   axial::attention_backward   the gradients that `mask` asks for                             CPU, Meta
#include "axial/ops/attention/attention.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/le.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

#include "axial/ops/attention/call.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

using at::Tensor;
using detail::AttentionArguments;
using detail::GradientMask;
using detail::Gradients;
using detail::numbers_of;
using detail::PatternTensors;
using detail::tensors_of;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::string_view kOp = "attention";

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const OptionalTensor& bias1, const OptionalTensor& bias2,
                                   const PatternTensors& pattern, at::IntArrayRef numbers, double scale,
                                   bool statistics) {
  return detail::run_forward({q, k, v, bias1, bias2, detail::pattern_of(pattern, numbers), scale},
                             q.scalar_type(), statistics);
}

Gradients backward(const Tensor& grad, const Tensor& out, const Tensor& statistics, const Tensor& q,
                   const Tensor& k, const Tensor& v, const OptionalTensor& bias1, const OptionalTensor& bias2,
                   const PatternTensors& pattern, at::IntArrayRef numbers, double scale, GradientMask mask) {
  return detail::run_backward({q, k, v, bias1, bias2, detail::pattern_of(pattern, numbers), scale},
                              {grad, out, statistics, false, mask});
}

template <class F>
auto operator_of(const char* name, const F&) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

std::tuple<Tensor, Tensor> call_forward(const AttentionArguments& a, bool statistics) {
  static const auto op = operator_of("axial::attention_forward", forward);
  return op.call(a.q, a.k, a.v, a.bias1, a.bias2, tensors_of(a.pattern), numbers_of(a.pattern), a.scale,
                 statistics);
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const OptionalTensor& bias1, const OptionalTensor& bias2,
                        const AttentionPattern& pattern, double scale, const AttentionResult* kept) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, statistics] = kept ? std::tuple(kept->out.variable_data(), kept->statistics)
                                  : call_forward({q, k, v, bias1, bias2, pattern, scale}, true);
    variable_list saved{out, statistics, q, k, v, bias1.value_or(Tensor()), bias2.value_or(Tensor())};
    for (const OptionalTensor& t : tensors_of(pattern).vec()) saved.push_back(t.value_or(Tensor()));
    ctx->save_for_backward(saved);
    ctx->saved_data["numbers"] = numbers_of(pattern);
    ctx->saved_data["scale"] = scale;
    if (const auto pairs = known_pairs()) {
      ctx->saved_data["pairs"] = std::vector<double>{pairs->seen, pairs->square};
    }
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    refuse_second_order(kOp, {grads[0], saved[2], saved[3], saved[4], saved[5], saved[6]});
    const auto optional = [&](size_t i) {
      return saved[i].defined() ? OptionalTensor(saved[i]) : std::nullopt;
    };
    PatternTensors pattern;
    for (size_t i = 7; i < saved.size(); ++i) pattern.push_back(optional(i));
    // Edges are counted over the tensors that are there.
    const size_t second = saved[5].defined() ? 4 : 3;
    const GradientMask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2),
                            saved[5].defined() && ctx->needs_input_grad(3),
                            saved[6].defined() && ctx->needs_input_grad(second)};
    std::optional<KnownPairs> pairs;
    if (const auto said = ctx->saved_data.find("pairs"); said != ctx->saved_data.end()) {
      const std::vector<double> numbers = said->second.toDoubleVector();
      pairs = {numbers[0], numbers[1]};
    }
    const KnownPairsScope scope(pairs);
    static const auto op = operator_of("axial::attention_backward", ops::backward);
    auto [dq, dk, dv, db1, db2] =
        op.call(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], optional(5), optional(6), pattern,
                ctx->saved_data["numbers"].toIntVector(), ctx->saved_data["scale"].toDouble(), mask);
    return {dq, dk, dv, db1, db2, Tensor(), Tensor(), Tensor()};
  }
};

bool wants_gradient(const AttentionArguments& a) {
  // A forward-mode tangent goes the same way: Function refuses it aloud.
  const auto wants = [](const Tensor& t) { return t.requires_grad() || t._fw_grad(0).defined(); };
  const auto wants_bias = [&](const OptionalTensor& t) { return t && wants(*t); };
  return at::GradMode::is_enabled() &&
         (wants(a.q) || wants(a.k) || wants(a.v) || wants_bias(a.bias1) || wants_bias(a.bias2));
}

enum class Layer { kBackend, kAutograd, kAutocast };

// By the dispatcher, from the top.
Tensor call_attention(const AttentionArguments& a);

Tensor run(Layer layer, const AttentionArguments& given, AttentionResult* kept = nullptr) {
  check_attention(given);
  const AttentionArguments a = with_few_leading_dims(given);
  if (kept && !kept->out.defined()) {
    const at::AutoDispatchBelowADInplaceOrView below;
    std::tie(kept->out, kept->statistics) = call_forward(a, true);
  }
  if (layer == Layer::kAutograd && wants_gradient(a)) {
    return Attention::apply(a.q, a.k, a.v, a.bias1, a.bias2, a.pattern, a.scale, kept);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kept ? kept->out : std::get<0>(call_forward(a, false));
}

double scale_of(const Tensor& q, std::optional<double> scale) {
  if (scale) return *scale;
  return q.dim() == 0 ? 1.0 : 1 / std::sqrt(static_cast<double>(q.size(-1)));
}

// fp32 of a bias whose dtype the kernels do not take beside q's; the lowest value of its own still hides a
// key.
Tensor single_bias(const Tensor& bias) {
  const double lowest = bias.scalar_type() == at::kHalf       ? -65504.0
                        : bias.scalar_type() == at::kBFloat16 ? -0x1.fep127
                                                              : std::numeric_limits<double>::lowest();
  return bias.to(at::kFloat).masked_fill(bias.le(lowest), -std::numeric_limits<double>::infinity());
}

// Autocast as torch's own attention: q, k and v to the lower dtype; a bias keeps that dtype or is fp32.
Tensor in_lower_precision(AttentionArguments a, at::DeviceType device) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::ScalarType low = at::autocast::get_autocast_dtype(device);
  for (Tensor* t : {&a.q, &a.k, &a.v}) *t = at::autocast::cached_cast(low, *t, device);
  for (OptionalTensor* bias : {&a.bias1, &a.bias2}) {
    if (!*bias || a.q.scalar_type() == at::kDouble || !at::isFloatingType((*bias)->scalar_type())) continue;
    const at::ScalarType type = (*bias)->scalar_type();
    if (type != at::kFloat && type != a.q.scalar_type()) *bias = single_bias(**bias);
  }
  return call_attention(a);
}

template <Layer kLayer>
Tensor attention_op(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias1,
                    const OptionalTensor& bias2, std::optional<double> scale, bool causal, int64_t window,
                    const OptionalTensor& segments, const OptionalTensor& key_begin,
                    const OptionalTensor& key_end, const OptionalTensor& mask_rows,
                    const OptionalTensor& mask_columns, int64_t query_block, int64_t key_block,
                    const OptionalTensor& alibi_slopes, const OptionalTensor& q_positions,
                    const OptionalTensor& k_positions) {
  AttentionArguments a{q, k, v, bias1, bias2, {}, scale_of(q, scale)};
  a.pattern = {causal,       window,      segments,  key_begin,    key_end,     mask_rows,
               mask_columns, query_block, key_block, alibi_slopes, q_positions, k_positions};
  if constexpr (kLayer == Layer::kAutocast) return in_lower_precision(std::move(a), at::kCPU);
  return run(kLayer, a);
}

using PublicSignature = decltype(attention_op<Layer::kBackend>);

Tensor call_attention(const AttentionArguments& a) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("axial::attention", "").typed<PublicSignature>();
  const AttentionPattern& p = a.pattern;
  return op.call(a.q, a.k, a.v, a.bias1, a.bias2, a.scale, p.causal, p.window, p.segments, p.key_begin,
                 p.key_end, p.mask_rows, p.mask_columns, p.query_block, p.key_block, p.alibi_slopes,
                 p.q_positions, p.k_positions);
}

Tensor evoformer_op(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias1,
                    const OptionalTensor& bias2, std::optional<double> scale) {
  return call_attention({q, k, v, bias1, bias2, {}, scale_of(q, scale)});
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias1,
                 const OptionalTensor& bias2, const AttentionPattern& pattern, std::optional<double> scale) {
  return call_attention({q, k, v, bias1, bias2, pattern, scale_of(q, scale)});
}

Tensor kept_attention(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias1,
                      const OptionalTensor& bias2, const AttentionPattern& pattern,
                      std::optional<double> scale, AttentionResult& kept) {
  return run(Layer::kAutograd, {q, k, v, bias1, bias2, pattern, scale_of(q, scale)}, &kept);
}

Tensor evoformer_attention(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias1,
                           const OptionalTensor& bias2, std::optional<double> scale) {
  return evoformer_op(q, k, v, bias1, bias2, scale);
}

void register_attention(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor? bias1=None, Tensor? bias2=None, *, float? scale=None,"
      " bool causal=False, int window=0, Tensor? segments=None, Tensor? key_begin=None, Tensor? key_end=None,"
      " Tensor? mask_rows=None, Tensor? mask_columns=None, int query_block=64, int key_block=64,"
      " Tensor? alibi_slopes=None, Tensor? q_positions=None, Tensor? k_positions=None) -> Tensor",
      tags);
  registry.def(
      "evoformer_attention(Tensor q, Tensor k, Tensor v, Tensor? bias1=None, Tensor? bias2=None, *,"
      " float? scale=None) -> Tensor",
      tags);
  registry.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? bias1, Tensor? bias2, Tensor?[] pattern,"
      " int[] numbers, float scale, bool statistics) -> (Tensor, Tensor)",
      tags);
  registry.def(
      "attention_backward(Tensor grad, Tensor out, Tensor statistics, Tensor q, Tensor k, Tensor v, Tensor? "
      "bias1,"
      " Tensor? bias2, Tensor?[] pattern, int[] numbers, float scale, bool[5] mask)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("attention", torch::dispatch(key, TORCH_FN(attention_op<Layer::kBackend>)));
    registry.impl("attention_forward", torch::dispatch(key, TORCH_FN(forward)));
    registry.impl("attention_backward", torch::dispatch(key, TORCH_FN(backward)));
  }
  registry.impl("attention",
                torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(attention_op<Layer::kAutograd>)));
  registry.impl("attention",
                torch::dispatch(c10::DispatchKey::AutocastCPU, TORCH_FN(attention_op<Layer::kAutocast>)));
  registry.impl("evoformer_attention", TORCH_FN(evoformer_op));
  detail::register_partial(registry);
}

}  // namespace axial::ops
