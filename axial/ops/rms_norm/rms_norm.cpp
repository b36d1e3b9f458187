// SPDX-License-Identifier: Apache-2.0
// rms_norm over kernels/norm: the dispatcher ops and their autograd.
//
//   axial::rms_norm           what users call; with a gradient wanted it goes through Autograd
//   axial::rms_norm_forward   y and the row statistic that backward needs   CPU, Meta
//   axial::rms_norm_backward  the gradients that `mask` asks for            CPU, Meta
#include "axial/ops/rms_norm/rms_norm.h"

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

constexpr std::string_view kOp = "rms_norm";
using Statistics = std::tuple<at::Tensor, at::Tensor>;  // y, rstd
using Gradients = std::tuple<at::Tensor, at::Tensor>;   // x, weight
using Mask = std::array<bool, 2>;

void check(const at::Tensor& x, const at::Tensor& weight) {
  AXIAL_OP_CHECK(x.dim() >= 1 && x.sym_size(-1) > 0, kOp,
                 "x is empty in its last dim; expected [.., C], got {}", shape_text(x));
  AXIAL_OP_CHECK(x.is_floating_point(), kOp, "x has no floating dtype; got {}",
                 c10::toString(x.scalar_type()));
  AXIAL_OP_CHECK(weight.dim() == 1 && weight.sym_size(0) == x.sym_size(-1), kOp,
                 "weight does not match x {}; expected [{}], got {}", shape_text(x), c10::str(x.sym_size(-1)),
                 shape_text(weight));
  AXIAL_OP_CHECK(weight.scalar_type() == x.scalar_type(), kOp, "dtypes differ; expected {} as x, got {}",
                 c10::toString(x.scalar_type()), c10::toString(weight.scalar_type()));
}

Statistics forward(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check(x, weight);
  const at::Tensor y = at::empty_like(x, at::MemoryFormat::Contiguous);
  const at::Tensor rstd = at::empty_symint(x.sym_sizes().slice(0, static_cast<size_t>(x.dim() - 1)),
                                           x.options().dtype(accumulate_type(x.scalar_type())));
  if (x.is_meta()) return {y, rstd};

  const RowView rows = as_rows(x);
  const at::Tensor w = weight.contiguous();
  const kernels::NormForward params{.kind = kernels::NormKind::kRms,
                                    .dtype = dtype_of(x, kOp),
                                    .rows = rows.rows,
                                    .cols = rows.cols,
                                    .eps = eps,
                                    .x = rows.tensor.const_data_ptr(),
                                    .x_stride = rows.stride,
                                    .weight = w.const_data_ptr(),
                                    .y = y.mutable_data_ptr(),
                                    .y_stride = rows.cols,
                                    .rstd = rstd.mutable_data_ptr()};
  throw_if_failed(kernels::norm_forward(params, torch_parallel_for()), kOp);
  return {y, rstd};
}

Gradients backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                   const at::Tensor& rstd, Mask mask) {
  const at::Tensor dx = mask[0] ? at::empty_like(x, at::MemoryFormat::Contiguous) : at::Tensor();
  const at::Tensor dweight = mask[1] ? at::empty_like(weight, at::MemoryFormat::Contiguous) : at::Tensor();
  if (has_symbolic_sizes(x)) return {dx, dweight};

  const RowView rows = as_rows(x);
  const RowView grads = as_rows(grad);
  const at::Tensor w = weight.contiguous();
  kernels::NormBackward params{.kind = kernels::NormKind::kRms,
                               .dtype = dtype_of(x, kOp),
                               .rows = rows.rows,
                               .cols = rows.cols,
                               .dy_stride = grads.stride,
                               .x_stride = rows.stride,
                               .dx_stride = rows.cols};
  const at::Tensor space = workspace(kernels::workspace_bytes(params), x);
  if (x.is_meta()) return {dx, dweight};

  params.dy = grads.tensor.const_data_ptr();
  params.x = rows.tensor.const_data_ptr();
  params.weight = w.const_data_ptr();
  params.rstd = rstd.const_data_ptr();
  params.dx = mask[0] ? dx.mutable_data_ptr() : nullptr;
  params.dweight = mask[1] ? dweight.mutable_data_ptr() : nullptr;
  params.workspace = space.mutable_data_ptr();
  throw_if_failed(kernels::norm_backward(params, torch_parallel_for()), kOp);
  return {dx, dweight};
}

at::Tensor without_gradient(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return std::get<0>(forward(x, weight, eps));
}

Statistics call_forward(const at::Tensor& x, const at::Tensor& weight, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::rms_norm_forward", "")
                             .typed<decltype(forward)>();
  return op.call(x, weight, eps);
}

Gradients call_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                        const at::Tensor& rstd, Mask mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::rms_norm_backward", "")
                             .typed<decltype(backward)>();
  return op.call(grad, x, weight, rstd, mask);
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& weight, double eps) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [y, rstd] = call_forward(x, weight, eps);
    ctx->save_for_backward({x, weight, rstd});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    refuse_second_order(kOp, {grads[0], saved[0], saved[1]});
    auto [dx, dweight] = call_backward(grads[0], saved[0], saved[1], saved[2],
                                       {ctx->needs_input_grad(0), ctx->needs_input_grad(1)});
    return {dx, dweight, at::Tensor()};
  }
};

at::Tensor with_gradient(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNorm::apply(x, weight, eps);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::rms_norm", "")
                             .typed<decltype(without_gradient)>();
  return op.call(x, weight, eps);
}

void register_rms_norm(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", tags);
  registry.def("rms_norm_forward(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)", tags);
  registry.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor rstd, bool[2] mask) -> (Tensor, "
      "Tensor)",
      tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("rms_norm", torch::dispatch(key, TORCH_FN(without_gradient)));
    registry.impl("rms_norm_forward", torch::dispatch(key, TORCH_FN(forward)));
    registry.impl("rms_norm_backward", torch::dispatch(key, TORCH_FN(backward)));
  }
  registry.impl("rms_norm", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(with_gradient)));
}

}  // namespace axial::ops
