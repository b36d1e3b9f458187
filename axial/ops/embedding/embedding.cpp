// SPDX-License-Identifier: Apache-2.0
// embedding over kernels/embedding: the dispatcher ops and their autograd. Lookup is linear in the weight
// and its backward linear in the gradient, each the other's derivative, so both have an Autograd kernel.
//
//   axial::embedding           CPU, Meta, Autograd
//   axial::embedding_backward  CPU, Meta, Autograd
#include "axial/ops/embedding/embedding.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "axial/kernels/embedding/embedding.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

constexpr std::string_view kOp = "embedding";
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void throw_unless_ok(const Status& status) {
  AXIAL_OP_CHECK(status.code != StatusCode::kInvalid, kOp, "{}", status.text);
  throw_if_failed(status, kOp);
}

at::Tensor lookup(const at::Tensor& weight, const at::Tensor& ids) {
  AXIAL_OP_CHECK(weight.dim() == 2 && weight.is_floating_point(), kOp,
                 "weight must be [V, C] of a floating dtype; got {} {}", shape_text(weight),
                 c10::toString(weight.scalar_type()));
  AXIAL_OP_CHECK(ids.scalar_type() == at::kLong, kOp, "ids must be int64; got {}",
                 c10::toString(ids.scalar_type()));
  c10::SymDimVector shape(ids.sym_sizes().begin(), ids.sym_sizes().end());
  shape.push_back(weight.sym_size(1));
  const at::Tensor out = at::empty_symint(shape, weight.options());
  if (out.is_meta()) return out;

  const RowView rows = as_rows(weight);
  const at::Tensor list = ids.contiguous();
  const kernels::EmbeddingForward params{.dtype = dtype_of(weight, kOp),
                                         .rows = rows.rows,
                                         .cols = rows.cols,
                                         .count = list.numel(),
                                         .weight = rows.tensor.const_data_ptr(),
                                         .weight_stride = rows.stride,
                                         .ids = list.const_data_ptr<int64_t>(),
                                         .out = out.mutable_data_ptr(),
                                         .out_stride = rows.cols};
  throw_unless_ok(kernels::embedding_forward(params, torch_parallel_for()));
  return out;
}

at::Tensor sum_by_id(const at::Tensor& grad, const at::Tensor& ids, c10::SymInt num_rows) {
  AXIAL_OP_CHECK(grad.dim() >= 1 && ids.scalar_type() == at::kLong &&
                     ids.sym_sizes() == grad.sym_sizes().slice(0, static_cast<size_t>(grad.dim() - 1)),
                 kOp, "grad does not match ids {}; expected [.., C] and int64 ids [..], got {}",
                 shape_text(ids), shape_text(grad));
  const at::Tensor dweight = at::empty_symint({num_rows, grad.sym_size(-1)}, grad.options());
  if (has_symbolic_sizes(grad) || has_symbolic_sizes(ids) || has_symbolic_sizes(dweight)) return dweight;

  kernels::EmbeddingBackward params{.dtype = dtype_of(grad, kOp),
                                    .rows = dweight.size(0),
                                    .cols = dweight.size(1),
                                    .count = ids.numel(),
                                    .dweight_stride = dweight.size(1)};
  const at::Tensor space = workspace(kernels::workspace_bytes(params), grad);
  if (grad.is_meta()) return dweight;

  const RowView rows = as_rows(grad);
  const at::Tensor list = ids.contiguous();
  params.ids = list.const_data_ptr<int64_t>();
  params.dout = rows.tensor.const_data_ptr();
  params.dout_stride = rows.stride;
  params.dweight = dweight.mutable_data_ptr();
  params.workspace = space.mutable_data_ptr();
  throw_unless_ok(kernels::embedding_backward(params, torch_parallel_for()));
  return dweight;
}

at::Tensor call_lookup(const at::Tensor& weight, const at::Tensor& ids) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("axial::embedding", "").typed<decltype(lookup)>();
  return op.call(weight, ids);
}

at::Tensor call_sum_by_id(const at::Tensor& grad, const at::Tensor& ids, c10::SymInt num_rows) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("axial::embedding_backward", "")
                             .typed<decltype(sum_by_id)>();
  return op.call(grad, ids, std::move(num_rows));
}

struct Lookup : torch::autograd::Function<Lookup> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& weight, const at::Tensor& ids) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({ids});
    ctx->saved_data["rows"] = weight.sym_size(0);
    return call_lookup(weight, ids);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {call_sum_by_id(grads[0], ctx->get_saved_variables()[0], ctx->saved_data["rows"].toSymInt()),
            at::Tensor()};
  }
};

struct SumById : torch::autograd::Function<SumById> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& ids,
                            c10::SymInt num_rows) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({ids});
    return call_sum_by_id(grad, ids, std::move(num_rows));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {call_lookup(grads[0], ctx->get_saved_variables()[0]), at::Tensor(), at::Tensor()};
  }
};

at::Tensor lookup_with_gradient(const at::Tensor& weight, const at::Tensor& ids) {
  return Lookup::apply(weight, ids);
}

at::Tensor sum_by_id_with_gradient(const at::Tensor& grad, const at::Tensor& ids, c10::SymInt num_rows) {
  return SumById::apply(grad, ids, std::move(num_rows));
}

}  // namespace

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids) { return call_lookup(weight, ids); }

void register_embedding(torch::Library& registry) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  registry.def("embedding(Tensor weight, Tensor ids) -> Tensor", tags);
  registry.def("embedding_backward(Tensor grad, Tensor ids, SymInt num_rows) -> Tensor", tags);
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::Meta}) {
    registry.impl("embedding", torch::dispatch(key, TORCH_FN(lookup)));
    registry.impl("embedding_backward", torch::dispatch(key, TORCH_FN(sum_by_id)));
  }
  registry.impl("embedding", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(lookup_with_gradient)));
  registry.impl("embedding_backward",
                torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(sum_by_id_with_gradient)));
}

}  // namespace axial::ops
