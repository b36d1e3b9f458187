// SPDX-License-Identifier: Apache-2.0
// linear: the choice of the matrix product, its Meta kernel and its autograd. Called by models/common.
//
// Why not at::linear alone: for fp32 it goes to MKL, whose kernels for AMD's CPUs stop at AVX2. torch
// carries oneDNN as well, and lets it be called through `mkldnn::_linear_pointwise`.
#include "axial/ops/linear/linear.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "axial/ops/common/kernel_call.h"
#include "axial/ops/common/memory_count.h"

namespace axial::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::string_view kOp = "linear";
// Multiply-adds below which oneDNN's fixed cost of some 10 us is not won back.
constexpr int64_t kSmall = 1 << 21;

void check(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
           const OptionalTensor& residual) {
  AXIAL_OP_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.sym_size(-1) == weight.sym_size(1), kOp,
                 "x and weight do not fit; expected [.., I] and [O, I], got {} and {}", shape_text(x),
                 shape_text(weight));
  AXIAL_OP_CHECK(x.is_floating_point(), kOp, "x has no floating dtype; got {}",
                 c10::toString(x.scalar_type()));
  AXIAL_OP_CHECK(!bias || (bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0)), kOp,
                 "bias does not match weight {}; expected [O], got {}", shape_text(weight),
                 bias ? shape_text(*bias) : "");
  bool fits = !residual || (residual->dim() == x.dim() && residual->sym_size(-1) == weight.sym_size(0));
  for (int64_t i = 0; residual && fits && i + 1 < x.dim(); ++i) {
    fits = residual->sym_size(i) == x.sym_size(i);
  }
  AXIAL_OP_CHECK(fits, kOp, "residual does not match x {} and weight {}; expected [.., O], got {}",
                 shape_text(x), shape_text(weight), residual ? shape_text(*residual) : "");
  for (const OptionalTensor& other : {OptionalTensor(weight), bias, residual}) {
    AXIAL_OP_CHECK(!other || other->scalar_type() == x.scalar_type(), kOp,
                   "dtypes differ; expected {} as x, got {}", c10::toString(x.scalar_type()),
                   other ? c10::toString(other->scalar_type()) : "");
  }
}

Tensor forward_meta(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                    const OptionalTensor& residual) {
  check(x, weight, bias, residual);
  c10::SymDimVector sizes(x.sym_sizes().begin(), x.sym_sizes().end());
  sizes.back() = weight.sym_size(0);
  return at::empty_symint(sizes, x.options());
}

using Product = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, c10::string_view,
                       c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
using ProductAndSum = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                             c10::string_view);

/// oneDNN's products, where this torch has them.
struct OneDnn {
  std::optional<c10::TypedOperatorHandle<Product>> product;
  std::optional<c10::TypedOperatorHandle<ProductAndSum>> product_and_sum;

  OneDnn() {
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto plain = dispatcher.findSchema({"mkldnn::_linear_pointwise", ""});
    const auto binary = dispatcher.findSchema({"mkldnn::_linear_pointwise", "binary"});
    if (!plain || !binary || !at::globalContext().hasMKLDNN()) return;
    product = plain->typed<Product>();
    product_and_sum = binary->typed<ProductAndSum>();
  }

  static const OneDnn& get() {
    static const OneDnn ops;
    return ops;
  }
};

bool suits_one_dnn(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == at::kFloat && x.numel() * weight.size(0) >= kSmall &&
         OneDnn::get().product.has_value() && at::globalContext().userEnabledMkldnn();
}

// Storage that oneDNN reads in place: a matrix, or its transpose.
Tensor dense(const Tensor& weight) {
  return weight.is_contiguous() || weight.t().is_contiguous() ? weight : weight.contiguous();
}

// a b (+ bias), [N, I] [I, O] -> [N, O]. What BLAS takes beside the result, to turn 16-bit numbers into the
// form that this CPU's instructions want, differs from CPU to CPU and is no part of a step's count.
Tensor matrix_product(const Tensor& a, const Tensor& b, const OptionalTensor& bias = {}) {
  Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  const MemoryPause scratch;
  return bias ? at::addmm_out(out, *bias, a, b) : at::mm_out(out, a, b);
}

Tensor forward_cpu(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                   const OptionalTensor& residual) {
  check(x, weight, bias, residual);
  if (!suits_one_dnn(x, weight)) {
    // BLAS adds in another order where a matrix lies transposed; a copy is small beside the product.
    const int64_t rows = c10::multiply_integers(x.sizes().slice(0, static_cast<size_t>(x.dim() - 1)));
    c10::DimVector sizes(x.sizes().begin(), x.sizes().end());
    sizes.back() = weight.size(0);
    Tensor y =
        matrix_product(x.contiguous().view({rows, x.size(-1)}), weight.contiguous().t(), bias).view(sizes);
    return residual ? y.add_(*residual) : y;
  }
  const OneDnn& one_dnn = OneDnn::get();
  const OptionalTensor b = bias ? OptionalTensor(bias->contiguous()) : std::nullopt;
  if (!residual)
    return one_dnn.product->call(x.contiguous(), dense(weight), b, "none",
                                 c10::List<std::optional<at::Scalar>>(), "");
  return one_dnn.product_and_sum->call(x.contiguous(), residual->contiguous(), dense(weight), b, "add");
}

Tensor call(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
            const OptionalTensor& residual) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("axial::linear", "").typed<decltype(forward_cpu)>();
  return op.call(x, weight, bias, residual);
}

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias, const OptionalTensor& residual) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, weight});
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["has_residual"] = residual.has_value();
    return call(x, weight, bias, residual);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const bool has_bias = ctx->saved_data["has_bias"].toBool();
    const bool has_residual = ctx->saved_data["has_residual"].toBool();
    const Tensor rows = grads[0].reshape_symint({-1, saved[1].sym_size(0)});
    Tensor dx, dweight, dbias, dresidual;
    if (ctx->needs_input_grad(0)) dx = call(grads[0], saved[1].t(), std::nullopt, std::nullopt);
    if (ctx->needs_input_grad(1)) {
      // Rows that lie one behind the other, whatever they were: BLAS adds in another order where they do not.
      const Tensor inputs = saved[0].reshape_symint({-1, saved[1].sym_size(1)}).contiguous();
      const bool plain = rows.is_cpu() && !at::GradMode::is_enabled();  // else it is differentiated in turn
      dweight = plain ? matrix_product(rows.contiguous().t(), inputs) : at::mm(rows.t(), inputs);
    }
    if (has_bias && ctx->needs_input_grad(2)) dbias = rows.sum(0);
    // Only tensors that were given are counted.
    if (has_residual && ctx->needs_input_grad(has_bias ? 3 : 2)) dresidual = grads[0];
    return {dx, dweight, dbias, dresidual};
  }
};

Tensor with_gradient(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     const OptionalTensor& residual) {
  check(x, weight, bias, residual);
  return LinearFunction::apply(x, weight, bias, residual);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
              const OptionalTensor& residual) {
  return call(x, weight, bias, residual);
}

void register_linear(torch::Library& registry) {
  registry.def("linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual) -> Tensor",
               {at::Tag::pt2_compliant_tag});
  registry.impl("linear", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(forward_cpu)));
  registry.impl("linear", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(forward_meta)));
  registry.impl("linear", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(with_gradient)));
}

}  // namespace axial::ops
