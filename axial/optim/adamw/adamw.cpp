// SPDX-License-Identifier: Apache-2.0
// Rows of the table -> one list of tensors per dtype -> one fused kernel call each.
#include "axial/optim/adamw/adamw.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/kernels/optimizer_step/optimizer_step.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/ops/common/memory_count.h"

namespace axial::optim {

namespace {

constexpr const char* kOp = "adamw";

at::Tensor updated_tensor(const parallel::Parameter& row) {
  const auto master = row.companions.find("master");
  return master == row.companions.end() ? row.part() : master->second;
}

void check_like(const parallel::Parameter& row, const char* what, const at::Tensor& tensor,
                at::ScalarType dtype) {
  AXIAL_CHECK(
      tensor.is_contiguous() && tensor.sizes() == row.holding.held_shape() && tensor.scalar_type() == dtype,
      kOp, "{} of '{}'; expected a contiguous {} tensor of shape [{}], got {} [{}]", what, row.spec.name,
      c10::toString(dtype), fmt::join(row.holding.held_shape(), ", "), c10::toString(tensor.scalar_type()),
      fmt::join(tensor.sizes(), ", "));
}

// One kernel call: tensors of equal dtypes. Without copies copy_dtype is the dtype itself.
struct Key {
  DType dtype, grad_dtype, copy_dtype;
  auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): a slip of clang-tidy 14
};

}  // namespace

void AdamWOptions::validate() const {
  AXIAL_CHECK(std::isfinite(learning_rate) && learning_rate >= 0, kOp,
              "learning_rate; expected at least 0, got {}", learning_rate);
  AXIAL_CHECK(0 <= beta1 && beta1 < 1, kOp, "beta1; expected a number of [0, 1), got {}", beta1);
  AXIAL_CHECK(0 <= beta2 && beta2 < 1, kOp, "beta2; expected a number of [0, 1), got {}", beta2);
  AXIAL_CHECK(std::isfinite(eps) && eps >= 0, kOp, "eps; expected at least 0, got {}", eps);
  AXIAL_CHECK(std::isfinite(weight_decay) && weight_decay >= 0, kOp,
              "weight_decay; expected at least 0, got {}", weight_decay);
}

AdamW::AdamW(AdamWOptions options, parallel::ParameterTable& parameters)
    : options_(options), parameters_(parameters) {
  options_.validate();
  for (const auto& row : parameters_.rows()) {
    AXIAL_CHECK(row->value.defined(), kOp, "parameter '{}' is not materialized", row->spec.name);
    if (!row->value.requires_grad()) continue;
    const at::Tensor updated = updated_tensor(*row);
    AXIAL_CHECK(updated.scalar_type() == at::kFloat || updated.scalar_type() == at::kDouble, kOp,
                "parameter '{}' of {}; expected a float32 companion 'master', got none", row->spec.name,
                c10::toString(row->value.scalar_type()));
    const ops::MemoryScope scope(ops::MemoryUse::kOptimizer);
    for (const char* name : {"exp_avg", "exp_avg_sq"}) {
      at::Tensor& moment = row->companions[name];
      if (!moment.defined()) moment = at::zeros_like(updated, updated.options().requires_grad(false));
    }
  }
}

void AdamW::step(double learning_rate, double grad_scale) {
  step_ += 1;
  std::map<Key, std::vector<kernels::AdamWTensor>> lists;
  for (const auto& row : parameters_.rows()) {
    if (!row->grad.defined()) continue;
    const at::Tensor updated = updated_tensor(*row);
    const at::Tensor part = row->part();
    const bool has_copy = row->companions.contains("master");
    at::Tensor& exp_avg = row->companions["exp_avg"];
    at::Tensor& exp_avg_sq = row->companions["exp_avg_sq"];
    AXIAL_CHECK(exp_avg.defined() && exp_avg_sq.defined(), kOp,
                "parameter '{}' has a gradient but no moments; expected a row with gradient at construction",
                row->spec.name);
    check_like(*row, "value", part, row->value.scalar_type());
    check_like(*row, "master", updated, updated.scalar_type());
    check_like(*row, "exp_avg", exp_avg, updated.scalar_type());
    check_like(*row, "exp_avg_sq", exp_avg_sq, updated.scalar_type());
    check_like(*row, "gradient", row->grad, row->grad.scalar_type());
    row->value.unsafeGetTensorImpl()->bump_version();  // a graph that saved it must notice
    if (updated.is_meta()) continue;                   // shapes only: there is nothing to compute
    AXIAL_CHECK(updated.is_cpu(), kOp, "device of '{}'; expected cpu or meta, got {}", row->spec.name,
                updated.device().str());
    const DType dtype = ops::dtype_of(updated, kOp);
    const Key key{dtype, ops::dtype_of(row->grad, kOp),
                  has_copy ? ops::dtype_of(row->value, kOp) : DType::kBF16};
    lists[key].push_back({.parameter = updated.mutable_data_ptr(),
                          .exp_avg = exp_avg.mutable_data_ptr(),
                          .exp_avg_sq = exp_avg_sq.mutable_data_ptr(),
                          .grad = row->grad.const_data_ptr(),
                          .copy = has_copy ? part.mutable_data_ptr() : nullptr,
                          .count = updated.numel(),
                          .step = step_,
                          .lr = learning_rate,
                          .weight_decay = row->spec.weight_decay ? options_.weight_decay : 0.0});
  }
  for (const auto& [key, tensors] : lists) {
    const kernels::AdamWStep params{.tensors = tensors,
                                    .dtype = key.dtype,
                                    .grad_dtype = key.grad_dtype,
                                    .copy_dtype = key.copy_dtype,
                                    .beta1 = options_.beta1,
                                    .beta2 = options_.beta2,
                                    .eps = options_.eps,
                                    .grad_scale = grad_scale};
    throw_if_failed(kernels::adamw_step(params, ops::torch_parallel_for()), kOp);
  }
}

nlohmann::json AdamW::state() const { return {{"step", step_}}; }

void AdamW::load_state(const nlohmann::json& state) {
  AXIAL_CHECK(state.is_object() && state.contains("step") && state["step"].is_number_integer() &&
                  state["step"].get<int64_t>() >= 0,
              kOp, "state; expected {{\"step\": updates done}}, got {}", state.dump());
  step_ = state["step"].get<int64_t>();
}

}  // namespace axial::optim
