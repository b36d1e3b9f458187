// SPDX-License-Identifier: Apache-2.0
// Dispatcher ops, checks, Meta kernels and autograd of cross_entropy and token_log_likelihood.
#include "axial/ops/cross_entropy/cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "axial/kernels/cross_entropy/cross_entropy.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Tensor3 = std::tuple<Tensor, Tensor, Tensor>;

constexpr const char* kOp = "cross_entropy";

void check(const Tensor& logits, const Tensor& labels) {
  AXIAL_OP_CHECK(logits.dim() >= 1 && logits.is_floating_point(), kOp,
                 "logits must be floating with at least one dim; expected [.., V], got {} {}",
                 shape_text(logits), c10::toString(logits.scalar_type()));
  AXIAL_OP_CHECK(labels.scalar_type() == at::kLong &&
                     labels.sym_sizes() == logits.sym_sizes().slice(0, logits.dim() - 1),
                 kOp, "labels must be int64 and have the shape of logits {} without its last dim; got {} {}",
                 shape_text(logits), shape_text(labels), c10::toString(labels.scalar_type()));
}

Tensor statistic_like(const Tensor& labels, const Tensor& logits) {
  return at::empty_symint(labels.sym_sizes(), logits.options().dtype(accumulate_type(logits.scalar_type())));
}

// What forward and token_log_likelihood share: statistics per row, and the sums when wanted.
struct Rows {
  Tensor log_sum_exp, log_likelihood;
};

Rows run_rows(const Tensor& logits, const Tensor& labels, double* sum, double* weight) {
  check(logits, labels);
  const RowView rows = as_rows(logits);
  const Tensor flat = labels.contiguous();
  Rows out{statistic_like(labels, logits), statistic_like(labels, logits)};
  kernels::CrossEntropyForward params;
  params.dtype = dtype_of(logits, kOp);
  params.rows = rows.rows;
  params.cols = rows.cols;
  params.ignore = kIgnoreLabel;
  params.logits = rows.tensor.const_data_ptr();
  params.stride = rows.stride;
  params.labels = flat.const_data_ptr<int64_t>();
  params.log_sum_exp = out.log_sum_exp.mutable_data_ptr();
  params.log_likelihood = out.log_likelihood.mutable_data_ptr();
  params.sum = sum;
  params.weight = weight;
  const Status status = kernels::cross_entropy_forward(params, torch_parallel_for());
  AXIAL_OP_CHECK(status.code != StatusCode::kInvalid, kOp, "{}", status.text);
  throw_if_failed(status, kOp);
  return out;
}

Tensor3 forward_meta(const Tensor& logits, const Tensor& labels) {
  check(logits, labels);
  const auto type = accumulate_type(logits.scalar_type());
  return {at::empty({}, logits.options().dtype(type)), at::empty({}, logits.options().dtype(at::kDouble)),
          statistic_like(labels, logits)};
}

Tensor3 forward_cpu(const Tensor& logits, const Tensor& labels) {
  double sum = 0, weight = 0;
  const Rows rows = run_rows(logits, labels, &sum, &weight);
  return {at::scalar_tensor(sum, logits.options().dtype(accumulate_type(logits.scalar_type()))),
          at::scalar_tensor(weight, logits.options().dtype(at::kDouble)), rows.log_sum_exp};
}

Tensor backward_meta(const Tensor&, const Tensor& logits, const Tensor&, const Tensor&) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}

Tensor backward_cpu(const Tensor& grad, const Tensor& logits, const Tensor& labels,
                    const Tensor& log_sum_exp) {
  Tensor grad_logits = backward_meta(grad, logits, labels, log_sum_exp);
  const RowView rows = as_rows(logits);
  const Tensor flat = labels.contiguous(), statistic = log_sum_exp.contiguous();
  kernels::CrossEntropyBackward params;
  params.dtype = dtype_of(logits, kOp);
  params.rows = rows.rows;
  params.cols = rows.cols;
  params.ignore = kIgnoreLabel;
  params.logits = rows.tensor.const_data_ptr();
  params.stride = rows.stride;
  params.labels = flat.const_data_ptr<int64_t>();
  params.log_sum_exp = statistic.const_data_ptr();
  params.scale = grad.item<double>();
  params.grad_logits = grad_logits.mutable_data_ptr();
  throw_if_failed(kernels::cross_entropy_backward(params, torch_parallel_for()), kOp);
  return grad_logits;
}

Tensor3 call_forward(const Tensor& logits, const Tensor& labels) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("axial::cross_entropy", "")
                       .typed<decltype(forward_cpu)>();
  return op.call(logits, labels);
}

Tensor call_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels,
                     const Tensor& log_sum_exp) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("axial::cross_entropy_backward", "")
                       .typed<decltype(backward_cpu)>();
  return op.call(grad, logits, labels, log_sum_exp);
}

struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const Tensor& logits, const Tensor& labels) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [sum, weight, log_sum_exp] = call_forward(logits, labels);
    ctx->save_for_backward({logits, labels, log_sum_exp});
    ctx->mark_non_differentiable({weight, log_sum_exp});
    return {sum, weight, log_sum_exp};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    refuse_second_order(kOp, {grads[0], saved[0]});
    return {call_backward(grads[0], saved[0], saved[1], saved[2]), Tensor()};
  }
};

Tensor3 forward_autograd(const Tensor& logits, const Tensor& labels) {
  const variable_list results = CrossEntropy::apply(logits, labels);
  return {results[0], results[1], results[2]};
}

Tensor likelihood_meta(const Tensor& logits, const Tensor& labels) {
  check(logits, labels);
  return statistic_like(labels, logits);
}

Tensor likelihood_cpu(const Tensor& logits, const Tensor& labels) {
  return run_rows(logits, labels, nullptr, nullptr).log_likelihood;
}

}  // namespace

LossSum cross_entropy(const Tensor& logits, const Tensor& labels) {
  const Tensor3 results = call_forward(logits, labels);
  return {std::get<0>(results), std::get<1>(results)};
}

Tensor token_log_likelihood(const Tensor& logits, const Tensor& labels) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("axial::token_log_likelihood", "")
                       .typed<decltype(likelihood_cpu)>();
  return op.call(logits.detach(), labels);
}

Tensor log_sum_exp(const Tensor& logits) {
  const at::NoGradGuard no_grad;
  const Tensor none = at::full_symint(logits.sym_sizes().slice(0, logits.dim() - 1), kIgnoreLabel,
                                      logits.options().dtype(at::kLong));
  return std::get<2>(call_forward(logits.detach(), none));
}

void register_cross_entropy(torch::Library& registry) {
  registry.def("cross_entropy(Tensor logits, Tensor labels) -> (Tensor, Tensor, Tensor)");
  registry.def(
      "cross_entropy_backward(Tensor grad, Tensor logits, Tensor labels, Tensor log_sum_exp) -> Tensor");
  registry.def("token_log_likelihood(Tensor logits, Tensor labels) -> Tensor");
  registry.impl("cross_entropy", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(forward_cpu)));
  registry.impl("cross_entropy", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(forward_meta)));
  registry.impl("cross_entropy", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(forward_autograd)));
  registry.impl("cross_entropy_backward", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(backward_cpu)));
  registry.impl("cross_entropy_backward", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(backward_meta)));
  registry.impl("token_log_likelihood", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(likelihood_cpu)));
  registry.impl("token_log_likelihood", torch::dispatch(c10::DispatchKey::Meta, TORCH_FN(likelihood_meta)));
}

}  // namespace axial::ops
