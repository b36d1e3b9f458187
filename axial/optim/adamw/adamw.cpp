// SPDX-License-Identifier: Apache-2.0
// Rows of the table, or spans of them -> one list of tensors per dtype -> one fused kernel call each.
#include "axial/optim/adamw/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/kernels/optimizer_step/optimizer_step.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/ops/common/memory_count.h"
#include "axial/optim/adamw/state_pieces.h"

namespace axial::optim {

namespace {

constexpr const char* kOp = "adamw";

bool has_master(const parallel::Parameter& row) {
  return row.companions.contains("master") || row.offloaded.contains("master");
}

at::ScalarType updated_dtype(const parallel::Parameter& row) {
  return has_master(row) ? row.companion_dtype("master") : row.value.scalar_type();
}

void check_like(const parallel::Parameter& row, const char* what, const at::Tensor& tensor,
                at::ScalarType dtype) {
  AXIAL_CHECK(
      tensor.is_contiguous() && tensor.sizes() == row.holding.held_shape() && tensor.scalar_type() == dtype,
      kOp, "{} of '{}'; expected a contiguous {} tensor of shape [{}], got {} [{}]", what, row.spec.name,
      c10::toString(dtype), fmt::join(row.holding.held_shape(), ", "), c10::toString(tensor.scalar_type()),
      fmt::join(tensor.sizes(), ", "));
}

void check_companion(const parallel::Parameter& row, const char* name, at::ScalarType dtype) {
  const auto found = row.offloaded.find(name);
  if (found == row.offloaded.end()) return check_like(row, name, row.companions.at(name), dtype);
  AXIAL_CHECK(found->second.sizes() == row.holding.held_shape() && found->second.dtype() == dtype, kOp,
              "{} of '{}'; expected {} [{}], got {} [{}]", name, row.spec.name, c10::toString(dtype),
              fmt::join(row.holding.held_shape(), ", "), c10::toString(found->second.dtype()),
              fmt::join(found->second.sizes(), ", "));
}

// All that a step reads and writes of a row has its shape.
void check_row(const parallel::Parameter& row) {
  const auto names = row.companion_names();
  for (const char* name : {"exp_avg", "exp_avg_sq"}) {
    AXIAL_CHECK(std::find(names.begin(), names.end(), name) != names.end(), kOp,
                "parameter '{}' has a gradient but no moments; expected a row with gradient at construction",
                row.spec.name);
    check_companion(row, name, updated_dtype(row));
  }
  if (has_master(row)) check_companion(row, "master", updated_dtype(row));
  if (!row.away.defined()) check_like(row, "value", row.part(), row.value.scalar_type());
  check_like(row, "gradient", row.grad, row.grad.scalar_type());
  AXIAL_CHECK(row.value.is_cpu() || row.value.is_meta(), kOp, "device of '{}'; expected cpu or meta, got {}",
              row.spec.name, row.value.device().str());
}

// One kernel call: tensors of equal dtypes. Without copies copy_dtype is the dtype itself.
struct Key {
  DType dtype, grad_dtype, copy_dtype;
  auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): a slip of clang-tidy 14
};

void* elements_of(const at::Tensor& tensor) { return tensor.mutable_data_ptr(); }

// What one pass updates.
class Pass {
 public:
  Pass(const AdamWOptions& options, int64_t step, double learning_rate, double grad_scale)
      : options_(options), step_(step), learning_rate_(learning_rate), grad_scale_(grad_scale) {}

  void add(const StateSpan& span) {
    const parallel::Parameter& row = *span.row;
    const bool has_copy = span.master.defined();
    const Key key{ops::dtype_of(span.exp_avg, kOp), ops::dtype_of(row.grad, kOp),
                  has_copy ? ops::dtype_of(row.value, kOp) : DType::kBF16};
    lists_[key].push_back({.parameter = has_copy ? elements_of(span.master) : elements_of(span.value),
                           .exp_avg = elements_of(span.exp_avg),
                           .exp_avg_sq = elements_of(span.exp_avg_sq),
                           .grad = static_cast<const std::byte*>(row.grad.const_data_ptr()) +
                                   span.begin * static_cast<int64_t>(row.grad.element_size()),
                           .copy = has_copy ? elements_of(span.value) : nullptr,
                           .count = span.end - span.begin,
                           .step = step_,
                           .lr = learning_rate_,
                           .weight_decay = row.spec.weight_decay ? options_.weight_decay : 0.0});
  }

  void run() const {
    for (const auto& [key, tensors] : lists_) {
      const kernels::AdamWStep params{.tensors = tensors,
                                      .dtype = key.dtype,
                                      .grad_dtype = key.grad_dtype,
                                      .copy_dtype = key.copy_dtype,
                                      .beta1 = options_.beta1,
                                      .beta2 = options_.beta2,
                                      .eps = options_.eps,
                                      .grad_scale = grad_scale_};
      throw_if_failed(kernels::adamw_step(params, ops::torch_parallel_for()), kOp);
    }
  }

 private:
  const AdamWOptions& options_;
  int64_t step_;
  double learning_rate_, grad_scale_;
  std::map<Key, std::vector<kernels::AdamWTensor>> lists_;
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
    const at::ScalarType dtype = updated_dtype(*row);
    AXIAL_CHECK(dtype == at::kFloat || dtype == at::kDouble, kOp,
                "parameter '{}' of {}; expected a float32 companion 'master', got none", row->spec.name,
                c10::toString(row->value.scalar_type()));
    const ops::MemoryScope scope(ops::MemoryUse::kOptimizer);
    const auto names = row->companion_names();
    for (const char* name : {"exp_avg", "exp_avg_sq"}) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      parameters_.add_companion(*row, name,
                                at::zeros(row->holding.held_shape(), row->value.options().dtype(dtype)));
    }
  }
  parallel::OffloadStore* const states = parameters_.companion_store();
  if (states != nullptr) states->settle();
  for (const parallel::OffloadStore* store : {states, parameters_.value_store()}) {
    const bool is_file = store != nullptr && store->options().to == parallel::OffloadTo::kFile;
    if (is_file && !pieces_) pieces_ = std::make_unique<StatePieces>(parameters_);
  }
}

AdamW::~AdamW() = default;

void AdamW::step(double learning_rate, double grad_scale) {
  step_ += 1;
  std::vector<parallel::Parameter*> updated;
  for (const auto& row : parameters_.rows()) {
    if (!row->grad.defined()) continue;
    check_row(*row);
    row->value.unsafeGetTensorImpl()->bump_version();         // a graph that saved it must notice
    if (!row->value.is_meta()) updated.push_back(row.get());  // else there is nothing to compute
  }
  if (pieces_) {  // without data too: what goes to and from the file is counted
    pieces_->for_each([&](const std::vector<StateSpan>& spans) {
      Pass pass(options_, step_, learning_rate, grad_scale);
      for (const StateSpan& span : spans) pass.add(span);
      pass.run();
    });
    return;
  }
  Pass pass(options_, step_, learning_rate, grad_scale);
  for (parallel::Parameter* row : updated) {
    const at::Tensor part = row->part();
    pass.add({row, 0, part.numel(), part, has_master(*row) ? row->companion("master") : at::Tensor(),
              row->companion("exp_avg"), row->companion("exp_avg_sq")});
  }
  pass.run();
}

nlohmann::json AdamW::state() const { return {{"step", step_}}; }

void AdamW::load_state(const nlohmann::json& state) {
  AXIAL_CHECK(state.is_object() && state.contains("step") && state["step"].is_number_integer() &&
                  state["step"].get<int64_t>() >= 0,
              kOp, "state; expected {{\"step\": updates done}}, got {}", state.dump());
  step_ = state["step"].get<int64_t>();
}

}  // namespace axial::optim
