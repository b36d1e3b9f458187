// SPDX-License-Identifier: Apache-2.0
// One pass over all gradients; sums per row in fp64 with cuts that depend on the shapes alone, then rows in
// their order.
#include "axial/optim/clip/clip.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/kernels/optimizer_step/optimizer_step.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/host_value/host_value.h"

namespace axial::optim {

namespace {

constexpr const char* kOp = "clip";

// Gradients of one dtype, as the kernel takes them.
struct List {
  std::vector<kernels::ListedTensor> tensors;
  std::vector<double> sums;
  at::Tensor like;
};

}  // namespace

double global_gradient_norm(const parallel::ParameterTable& parameters, double nominal) {
  std::map<DType, List> lists;
  for (const auto& row : parameters.rows()) {
    if (!row->grad.defined()) continue;
    const at::Tensor& grad = row->grad;
    AXIAL_CHECK(grad.is_contiguous() && (grad.is_cpu() || grad.is_meta()), kOp,
                "gradient of '{}'; expected a contiguous tensor on cpu or meta, got one on {}",
                row->spec.name, grad.device().str());
    List& list = lists[ops::dtype_of(grad, kOp)];
    AXIAL_CHECK(!list.like.defined() || list.like.device() == grad.device(), kOp,
                "gradient of '{}'; expected device {}, got {}", row->spec.name, list.like.device().str(),
                grad.device().str());
    list.tensors.push_back({grad.is_meta() ? nullptr : grad.const_data_ptr(), grad.numel()});
    list.like = grad;
  }
  at::Tensor total = at::zeros({}, at::kDouble);
  for (auto& [dtype, list] : lists) {
    list.sums.resize(list.tensors.size());
    kernels::SumOfSquares params{.tensors = list.tensors, .dtype = dtype, .sums = list.sums.data()};
    const at::Tensor workspace = ops::workspace(kernels::workspace_bytes(params), list.like);
    if (workspace.is_meta()) {
      total = at::empty({}, at::TensorOptions(at::kDouble).device(at::kMeta));
      continue;
    }
    params.workspace = workspace.mutable_data_ptr();
    throw_if_failed(kernels::sum_of_squares(params, ops::torch_parallel_for()), kOp);
    double sum = 0;
    for (const double row : list.sums) sum += row;
    total.add_(sum);
  }
  return std::sqrt(parallel::host_value(total, nominal * nominal));
}

double clip_factor(double norm, double max_norm) {
  AXIAL_CHECK(max_norm >= 0, kOp, "max_norm; expected at least 0 (0: no clipping), got {}", max_norm);
  if (max_norm == 0 || !std::isfinite(norm) || norm <= max_norm) return 1.0;
  return max_norm / norm;
}

}  // namespace axial::optim
