// SPDX-License-Identifier: Apache-2.0
// layer_norm over kernels/norm: the dispatcher ops and their autograd.
//
//   axial::layer_norm           what users call; with a gradient wanted it goes through Autograd
//   axial::layer_norm_forward   y and the row statistics that backward needs   CPU, Meta
//   axial::layer_norm_backward  the gradients that `mask` asks for             CPU, Meta
#include "axial/ops/layer_norm/layer_norm.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "axial/kernels/norm/norm.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

constexpr std::string_view kOp = "layer_norm";
using Statistics = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // y, mean, rstd
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;   // x, weight, bias
using Mask = std::array<bool, 3>;

void check(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  AXIAL_OP_CHECK(x.dim() >= 1 && x.sym_size(-1) > 0, kOp,
                 "x is empty in its last dim; expected [.., C], got {}", shape_text(x));
  AXIAL_OP_CHECK(x.is_floating_point(), kOp, "x has no floating dtype; got {}",
                 c10::toString(x.scalar_type()));
  for (const at::Tensor& t : {weight, bias.value_or(weight)}) {
    AXIAL_OP_CHECK(t.dim() == 1 && t.sym_size(0) == x.sym_size(-1), kOp,
                   "weight or bias does not match x {}; expected [{}], got {}", shape_text(x),
                   c10::str(x.sym_size(-1)), shape_text(t));
    AXIAL_OP_CHECK(t.scalar_type() == x.scalar_type(), kOp, "dtypes differ; expected {} as x, got {}",
                   c10::toString(x.scalar_type()), c10::toString(t.scalar_type()));
  }
}

Statistics forward(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   double eps) {
  check(x, weight, bias);
  const at::Tensor y = at::empty_like(x, at::MemoryFormat::Contiguous);
  const at::Tensor mean = at::empty_symint(x.sym_sizes().slice(0, static_cast<size_t>(x.dim() - 1)),
                                           x.options().dtype(accumulate_type(x.scalar_type())));
  const at::Tensor rstd = at::empty_like(mean);
  if (x.is_meta()) return {y, mean, rstd};

  const RowView rows = as_rows(x);
  const at::Tensor w = weight.contiguous();
  const at::Tensor b = bias ? bias->contiguous() : at::Tensor();
  const kernels::NormForward params{.kind = kernels::NormKind::kLayer,
                                    .dtype = dtype_of(x, kOp),
                                    .rows = rows.rows,
                                    .cols = rows.cols,
                                    .eps = eps,
                                    .x = rows.tensor.const_data_ptr(),
                                    .x_stride = rows.stride,
                                    .weight = w.const_data_ptr(),
                                    .bias = bias ? b.const_data_ptr() : nullptr,
                                    .y = y.mutable_data_ptr(),
                                    .y_stride = rows.cols,
                                    .mean = mean.mutable_data_ptr(),
                                    .rstd = rstd.mutable_data_ptr()};
  throw_if_failed(kernels::norm_forward(params, torch_parallel_for()), kOp);
  return {y, mean, rstd};
}

Gradients backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                   const at::Tensor& mean, const at::Tensor& rstd, Mask mask) {
  const at::Tensor dx = mask[0] ? at::empty_like(x, at::MemoryFormat::Contiguous) : at::Tensor();
  const at::Tensor dweight = mask[1] ? at::empty_like(weight, at::MemoryFormat::Contiguous) : at::Tensor();
  const at::Tensor dbias = mask[2] ? at::empty_like(weight, at::MemoryFormat::Contiguous) : at::Tensor();
  if (has_symbolic_sizes(x)) return {dx, dweight, dbias};

  const RowView rows = as_rows(x);
  const RowView grads = as_rows(grad);
  const at::Tensor w = weight.contiguous();
  kernels::NormBackward params{.kind = kernels::NormKind::kLayer,
                               .dtype = dtype_of(x, kOp),
                               .rows = rows.rows,
                               .cols = rows.cols,
                               .dy_stride = grads.stride,
                               .x_stride = rows.stride,
                               .dx_stride = rows.cols};
  const at::Tensor space = workspace(kernels::workspace_bytes(params), x);
  if (x.is_meta()) return {dx, dweight, dbias};

  params.dy = grads.tensor.const_data_ptr();
  params.x = rows.tensor.const_data_ptr();
  params.weight = w.const_data_ptr();
  params.mean = mean.const_data_ptr();
  params.rstd = rstd.const_data_ptr();
  params.dx = mask[0] ? dx.mutable_data_ptr() : nullptr;
  params.dweight = mask[1] ? dweight.mutable_data_ptr() : nullptr;
  params.dbias = mask[2] ? dbias.mutable_data_ptr() : nullptr;
  params.workspace = space.mutable_data_ptr();
  throw_if_failed(kernels::norm_backward(params, torch_parallel_for()), kOp);
  return {dx, dweight, dbias};
}

at::Tensor without_gradient(const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, double eps) {
  return std::get<0>(forward(x, weight, bias, eps));
}

Statistics call_forward(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::layer_norm_forward", "")
                             .typed<decltype(forward)>();
  return op.call(x, weight, bias, eps);
}

Gradients call_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                        const at::Tensor& mean, const at::Tensor& rstd, Mask mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::layer_norm_backward", "")
                             .typed<decltype(backward)>();
  return op.call(grad, x, weight, mean, rstd, mask);
}

struct LayerNorm : torch::autograd::Function<LayerNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias, double eps) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mean, rstd] = call_forward(x, weight, bias, eps);
    ctx->save_for_backward({x, weight, mean, rstd});
    ctx->saved_data["has_bias"] = bias.has_value();
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    refuse_second_order(kOp, {grads[0], saved[0], saved[1]});
    const bool has_bias = ctx->saved_data["has_bias"].toBool();
    const Mask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1), has_bias && ctx->needs_input_grad(2)};
    auto [dx, dweight, dbias] = call_backward(grads[0], saved[0], saved[1], saved[2], saved[3], mask);
    return {dx, dweight, dbias, at::Tensor()};
  }
};

at::Tensor with_gradient(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         double eps) {
  return LayerNorm::apply(x, weight, bias, eps);
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::layer_norm", "")
                             .typed<decltype(without_gradient)>();
  return op.call(x, weight, bias, eps);
}

void register_layer_norm(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def("layer_norm(Tensor x, Tensor weight, Tensor? bias, float eps) -> Tensor", tags);
  registry.def(
      "layer_norm_forward(Tensor x, Tensor weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)",
      tags);
  registry.def(
      "layer_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor mean, Tensor rstd, bool[3] mask)"
      " -> (Tensor, Tensor, Tensor)",
      tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("layer_norm", torch::dispatch(key, TORCH_FN(without_gradient)));
    registry.impl("layer_norm_forward", torch::dispatch(key, TORCH_FN(forward)));
    registry.impl("layer_norm_backward", torch::dispatch(key, TORCH_FN(backward)));
  }
  registry.impl("layer_norm", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(with_gradient)));
}

}  // namespace axial::ops
