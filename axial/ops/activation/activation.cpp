// SPDX-License-Identifier: Apache-2.0
// activation and gated_activation over kernels/activation: the dispatcher ops and their autograd. Both
// save their input alone, so forward needs no second op; `kind` is a name, see kNames.
#include "axial/ops/activation/activation.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

constexpr std::string_view kOp = "activation";
constexpr std::string_view kGatedOp = "gated_activation";
constexpr std::array<std::string_view, 4> kNames = {"gelu", "gelu_tanh", "silu",
                                                    "relu"};  // order of Activation
using Bias = std::optional<at::Tensor>;
using Gradients = std::tuple<at::Tensor, at::Tensor>;  // x, bias
using Mask = std::array<bool, 2>;

std::string_view name_of_kind(Activation kind) { return kNames[static_cast<size_t>(kind)]; }

Activation kind_of(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Activation>(i);
  }
  AXIAL_OP_CHECK(false, kOp, "unknown function '{}'; expected one of {}", name, fmt::join(kNames, ", "));
}

void check(const at::Tensor& x, const Bias& bias) {
  AXIAL_OP_CHECK(x.dim() >= 1, kOp, "x has no dims; expected [.., F]");
  AXIAL_OP_CHECK(x.is_floating_point(), kOp, "x has no floating dtype; got {}",
                 c10::toString(x.scalar_type()));
  if (!bias) return;
  AXIAL_OP_CHECK(bias->dim() == 1 && bias->sym_size(0) == x.sym_size(-1), kOp,
                 "bias does not match x {}; expected [{}], got {}", shape_text(x), c10::str(x.sym_size(-1)),
                 shape_text(*bias));
  AXIAL_OP_CHECK(bias->scalar_type() == x.scalar_type(), kOp, "dtypes differ; expected {} as x, got {}",
                 c10::toString(x.scalar_type()), c10::toString(bias->scalar_type()));
}

at::Tensor forward(const at::Tensor& x, const Bias& bias, std::string_view kind) {
  check(x, bias);
  const Activation function = kind_of(kind);
  const at::Tensor y = at::empty_like(x, at::MemoryFormat::Contiguous);
  if (x.is_meta()) return y;

  const RowView rows = as_rows(x);
  const at::Tensor b = bias ? bias->contiguous() : at::Tensor();
  const kernels::ActivationForward params{.kind = function,
                                          .dtype = dtype_of(x, kOp),
                                          .rows = rows.rows,
                                          .cols = rows.cols,
                                          .x = rows.tensor.const_data_ptr(),
                                          .x_stride = rows.stride,
                                          .bias = bias ? b.const_data_ptr() : nullptr,
                                          .y = y.mutable_data_ptr(),
                                          .y_stride = rows.cols};
  throw_if_failed(kernels::activation_forward(params, torch_parallel_for()), kOp);
  return y;
}

Gradients backward(const at::Tensor& grad, const at::Tensor& x, const Bias& bias, std::string_view kind,
                   Mask mask) {
  const at::Tensor dx = mask[0] ? at::empty_like(x, at::MemoryFormat::Contiguous) : at::Tensor();
  const at::Tensor dbias = mask[1] ? at::empty_like(*bias, at::MemoryFormat::Contiguous) : at::Tensor();
  if (has_symbolic_sizes(x)) return {dx, dbias};

  const RowView rows = as_rows(x);
  const RowView grads = as_rows(grad);
  const at::Tensor b = bias ? bias->contiguous() : at::Tensor();
  kernels::ActivationBackward params{.kind = kind_of(kind),
                                     .dtype = dtype_of(x, kOp),
                                     .rows = rows.rows,
                                     .cols = rows.cols,
                                     .dy_stride = grads.stride,
                                     .x_stride = rows.stride,
                                     .dx_stride = rows.cols};
  const at::Tensor space = workspace(mask[1] ? kernels::workspace_bytes(params) : 0, x);
  if (x.is_meta()) return {dx, dbias};

  params.dy = grads.tensor.const_data_ptr();
  params.x = rows.tensor.const_data_ptr();
  params.bias = bias ? b.const_data_ptr() : nullptr;
  params.dx = mask[0] ? dx.mutable_data_ptr() : nullptr;
  params.dbias = mask[1] ? dbias.mutable_data_ptr() : nullptr;
  params.workspace = space.mutable_data_ptr();
  throw_if_failed(kernels::activation_backward(params, torch_parallel_for()), kOp);
  return {dx, dbias};
}

at::Tensor gated_forward(const at::Tensor& gate_up, std::string_view kind) {
  AXIAL_OP_CHECK(gate_up.dim() >= 1 && gate_up.sym_size(-1) % 2 == 0, kGatedOp,
                 "no gate and up of one width in gate_up; expected [.., 2F], got {}", shape_text(gate_up));
  AXIAL_OP_CHECK(gate_up.is_floating_point(), kGatedOp, "gate_up has no floating dtype; got {}",
                 c10::toString(gate_up.scalar_type()));
  const Activation function = kind_of(kind);
  c10::SymDimVector shape(gate_up.sym_sizes().begin(), gate_up.sym_sizes().end());
  shape.back() = shape.back() / 2;
  const at::Tensor y = at::empty_symint(shape, gate_up.options());
  if (gate_up.is_meta()) return y;

  const RowView rows = as_rows(gate_up);
  const kernels::GatedForward params{.kind = function,
                                     .dtype = dtype_of(gate_up, kGatedOp),
                                     .rows = rows.rows,
                                     .cols = rows.cols / 2,
                                     .gate_up = rows.tensor.const_data_ptr(),
                                     .gate_up_stride = rows.stride,
                                     .y = y.mutable_data_ptr(),
                                     .y_stride = rows.cols / 2};
  throw_if_failed(kernels::gated_forward(params, torch_parallel_for()), kGatedOp);
  return y;
}

at::Tensor gated_backward(const at::Tensor& grad, const at::Tensor& gate_up, std::string_view kind) {
  const at::Tensor gradient = at::empty_like(gate_up, at::MemoryFormat::Contiguous);
  if (gate_up.is_meta()) return gradient;

  const RowView rows = as_rows(gate_up);
  const RowView grads = as_rows(grad);
  const kernels::GatedBackward params{.kind = kind_of(kind),
                                      .dtype = dtype_of(gate_up, kGatedOp),
                                      .rows = rows.rows,
                                      .cols = rows.cols / 2,
                                      .dy = grads.tensor.const_data_ptr(),
                                      .dy_stride = grads.stride,
                                      .gate_up = rows.tensor.const_data_ptr(),
                                      .gate_up_stride = rows.stride,
                                      .dgate_up = gradient.mutable_data_ptr(),
                                      .dgate_up_stride = rows.cols};
  throw_if_failed(kernels::gated_backward(params, torch_parallel_for()), kGatedOp);
  return gradient;
}

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

struct BiasedActivation : torch::autograd::Function<BiasedActivation> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const Bias& bias,
                            std::string_view kind) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, bias.value_or(at::Tensor())});
    ctx->saved_data["kind"] = std::string(kind);
    static const auto op = find<decltype(ops::forward)>("axial::activation");
    return op.call(x, bias, kind);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    refuse_second_order(kOp, {grads[0], saved[0], saved[1]});
    const bool has_bias = saved[1].defined();
    static const auto op = find<decltype(ops::backward)>("axial::activation_backward");
    auto [dx, dbias] = op.call(grads[0], saved[0], has_bias ? Bias(saved[1]) : std::nullopt,
                               ctx->saved_data["kind"].toStringView(),
                               {ctx->needs_input_grad(0), has_bias && ctx->needs_input_grad(1)});
    return {dx, dbias, at::Tensor()};
  }
};

struct GatedActivation : torch::autograd::Function<GatedActivation> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& gate_up,
                            std::string_view kind) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({gate_up});
    ctx->saved_data["kind"] = std::string(kind);
    static const auto op = find<decltype(gated_forward)>("axial::gated_activation");
    return op.call(gate_up, kind);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    refuse_second_order(kGatedOp, {grads[0], saved[0]});
    static const auto op = find<decltype(gated_backward)>("axial::gated_activation_backward");
    return {op.call(grads[0], saved[0], ctx->saved_data["kind"].toStringView()), at::Tensor()};
  }
};

at::Tensor with_gradient(const at::Tensor& x, const Bias& bias, std::string_view kind) {
  return BiasedActivation::apply(x, bias, kind);
}

at::Tensor gated_with_gradient(const at::Tensor& gate_up, std::string_view kind) {
  return GatedActivation::apply(gate_up, kind);
}

}  // namespace

at::Tensor activation(const at::Tensor& x, const std::optional<at::Tensor>& bias, Activation kind) {
  static const auto op = find<decltype(forward)>("axial::activation");
  return op.call(x, bias, name_of_kind(kind));
}

at::Tensor gated_activation(const at::Tensor& gate_up, Activation kind) {
  static const auto op = find<decltype(gated_forward)>("axial::gated_activation");
  return op.call(gate_up, name_of_kind(kind));
}

void register_activation(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def("activation(Tensor x, Tensor? bias, str kind) -> Tensor", tags);
  registry.def(
      "activation_backward(Tensor grad, Tensor x, Tensor? bias, str kind, bool[2] mask) -> (Tensor, Tensor)",
      tags);
  registry.def("gated_activation(Tensor gate_up, str kind) -> Tensor", tags);
  registry.def("gated_activation_backward(Tensor grad, Tensor gate_up, str kind) -> Tensor", tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("activation", torch::dispatch(key, TORCH_FN(forward)));
    registry.impl("activation_backward", torch::dispatch(key, TORCH_FN(backward)));
    registry.impl("gated_activation", torch::dispatch(key, TORCH_FN(gated_forward)));
    registry.impl("gated_activation_backward", torch::dispatch(key, TORCH_FN(gated_backward)));
  }
  registry.impl("activation", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(with_gradient)));
  registry.impl("gated_activation",
                torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(gated_with_gradient)));
}

}  // namespace axial::ops
