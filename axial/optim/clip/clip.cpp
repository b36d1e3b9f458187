// SPDX-License-Identifier: Apache-2.0
// One pass over all gradients; sums per row in fp64 with cuts that depend on the shapes alone, then rows in
// their order.
#include "axial/optim/clip/clip.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/kernels/optimizer_step/optimizer_step.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/host_value/host_value.h"

namespace axial::optim {

namespace {

constexpr const char* kOp = "clip";

// Gradients of one dtype that are summed over the same ranks, as the kernel takes them.
struct List {
  std::vector<kernels::ListedTensor> tensors;
  std::vector<double> weights;  // 1 / ranks that hold a piece alike
  std::vector<double> sums;
  at::Tensor like;
};

// Ranks along these hold other elements of the gradient.
std::string parting_axes(const parallel::Parameter& row, const parallel::Communicator* ranks,
                         parallel::Axes& axes) {
  axes = row.sharded_axes;
  const bool parted =
      row.zero_stage > 0 && ranks != nullptr && ranks->mesh().group_size(row.replica_axes) > 1;
  if (parted) axes.insert(axes.end(), row.replica_axes.begin(), row.replica_axes.end());
  std::sort(axes.begin(), axes.end());
  return fmt::format("{}", fmt::join(axes, "+"));
}

// The gradient in pieces of equal weight: rows that several ranks hold count once over all of them.
void add_pieces(const parallel::Parameter& row, List& list) {
  const at::Tensor& grad = row.grad;
  const char* data = grad.is_meta() ? nullptr : static_cast<const char*>(grad.const_data_ptr());
  int64_t at = row.holding.flat_begin;
  const int64_t end = at + grad.numel();
  const auto add = [&](int64_t until, double weight) {
    until = std::clamp(until, at, end);
    if (until == at) return;
    const auto offset = (at - row.holding.flat_begin) * static_cast<int64_t>(grad.element_size());
    list.tensors.push_back({data == nullptr ? nullptr : data + offset, until - at});
    list.weights.push_back(weight);
    at = until;
  };
  const std::vector<int64_t> shape = row.holding.sliced_shape();
  const int64_t size = c10::multiply_integers(shape);
  const int64_t row_size = shape.empty() || shape[0] == 0 ? 1 : size / shape[0];
  for (const parallel::SharedRows& shared : row.shared_rows) {
    add(shared.begin * row_size, 1.0);
    add(shared.end * row_size, 1.0 / static_cast<double>(shared.copies));
  }
  add(end, 1.0);
}

at::Tensor sum_of_squares(List& list) {
  list.sums.resize(list.tensors.size());
  kernels::SumOfSquares params{
      .tensors = list.tensors, .dtype = ops::dtype_of(list.like, kOp), .sums = list.sums.data()};
  const at::Tensor workspace = ops::workspace(kernels::workspace_bytes(params), list.like);
  if (workspace.is_meta()) return at::empty({}, at::TensorOptions(at::kDouble).device(at::kMeta));
  params.workspace = workspace.mutable_data_ptr();
  throw_if_failed(kernels::sum_of_squares(params, ops::torch_parallel_for()), kOp);
  double sum = 0;
  for (size_t i = 0; i < list.sums.size(); ++i) sum += list.weights[i] * list.sums[i];
  return at::full({}, sum, at::kDouble);
}

}  // namespace

double global_gradient_norm(const parallel::ParameterTable& parameters, parallel::Communicator* ranks,
                            double nominal) {
  struct Set {
    parallel::Axes axes;
    std::map<DType, List> lists;
  };
  std::map<std::string, Set> sets;
  for (const auto& row : parameters.rows()) {
    parallel::Axes axes;
    const std::string key = parting_axes(*row, ranks, axes);
    if (ranks != nullptr && row->value.requires_grad()) sets[key].axes = axes;  // on every rank alike
    if (!row->grad.defined()) continue;
    const at::Tensor& grad = row->grad;
    AXIAL_CHECK(grad.is_contiguous() && (grad.is_cpu() || grad.is_meta()), kOp,
                "gradient of '{}'; expected a contiguous tensor on cpu or meta, got one on {}",
                row->spec.name, grad.device().str());
    List& list = sets[key].lists[ops::dtype_of(grad, kOp)];
    AXIAL_CHECK(!list.like.defined() || list.like.device() == grad.device(), kOp,
                "gradient of '{}'; expected device {}, got {}", row->spec.name, list.like.device().str(),
                grad.device().str());
    add_pieces(*row, list);
    list.like = grad;
  }
  std::optional<parallel::Communicator::ControlCalls> control;
  if (ranks != nullptr) control.emplace(*ranks);
  at::Tensor total = at::zeros({}, at::kDouble);
  for (auto& [key, set] : sets) {
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (auto& [dtype, list] : set.lists) {
      const at::Tensor part = sum_of_squares(list);
      sum = part.is_meta() ? part : sum + part;
    }
    if (ranks != nullptr && !set.axes.empty())
      sum = ranks->all_reduce(sum, set.axes, parallel::ReduceOp::kSum);
    total = sum.is_meta() ? sum : total + sum;
  }
  return std::sqrt(parallel::host_value(total, nominal * nominal));
}

double clip_factor(double norm, double max_norm) {
  AXIAL_CHECK(max_norm >= 0, kOp, "max_norm; expected at least 0 (0: no clipping), got {}", max_norm);
  if (max_norm == 0 || !std::isfinite(norm) || norm <= max_norm) return 1.0;
  return max_norm / norm;
}

}  // namespace axial::optim
