// SPDX-License-Identifier: Apache-2.0
// Which collective belongs to which crossing, for a whole and for a cut stream.
#include "axial/parallel/tensor/stream.h"

#include <ATen/ATen.h>

#include <numeric>

#include "axial/core/check/check.h"
#include "axial/ops/linear/linear.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "tensor";
constexpr int64_t kSequenceDim = 1;

const Axes& tensor_axis() {
  static const Axes axes{kTensorAxis};
  return axes;
}

}  // namespace

TensorStream::TensorStream(const TensorCut& cut, const StepContext& context, const NamedTensors& inputs) {
  const int64_t degree = context.ranks ? tensor_degree(context.ranks->mesh()) : 1;
  AXIAL_CHECK(degree == cut.degree, kOp,
              "ranks along 'tensor'; expected the {} that the model was cut for by parallelize, got {}",
              cut.degree, degree);
  if (degree == 1) return;
  ranks_ = context.ranks;
  if (!cut.sequence_regions || context.decode) return;
  const auto rows = inputs.find("row_positions");
  AXIAL_CHECK(rows != inputs.end(), kOp,
              "sequence regions need 'row_positions' in the batch; expected [L], got none");
  sizes_ = even_sizes(rows->second.size(0), degree);
}

int64_t TensorStream::degree() const { return ranks_ ? tensor_degree(ranks_->mesh()) : 1; }

at::Tensor TensorStream::enter(const at::Tensor& x) const {
  if (is_cut()) return gather_from(x, kSequenceDim, ranks_, tensor_axis(), sizes_);
  return copy_to(x, ranks_, tensor_axis());
}

at::Tensor TensorStream::leave(const at::Tensor& x) const {
  if (is_cut()) return reduce_scatter_to(x, kSequenceDim, ranks_, tensor_axis(), sizes_);
  return reduce_from(x, ranks_, tensor_axis());
}

at::Tensor TensorStream::own(const at::Tensor& x, int64_t dim) const {
  if (!is_cut()) return x;
  const int64_t rank = ranks_->mesh().coordinate(kTensorAxis);
  AXIAL_CHECK(std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0}) == x.size(dim), kOp,
              "tensor of {} positions; expected those of 'row_positions', whole over 'tensor'", x.size(dim));
  const int64_t begin = std::accumulate(sizes_.begin(), sizes_.begin() + rank, int64_t{0});
  return x.narrow(dim, begin, sizes_[static_cast<size_t>(rank)]);
}

at::Tensor TensorStream::gather(const at::Tensor& x, int64_t dim) const {
  return is_cut() ? replicate_from(x, dim, ranks_, tensor_axis(), sizes_) : x;
}

at::Tensor TensorStream::total(const at::Tensor& x) const {
  return is_cut() ? reduce_from(x, ranks_, tensor_axis()) : x;
}

at::Tensor row_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      const std::optional<at::Tensor>& residual, const TensorStream& stream) {
  if (!stream.ranks()) return ops::linear(x, weight, bias, residual);
  // Bias and residual behind the sum: in the product every rank would add them.
  const at::Tensor y = stream.leave(ops::linear(x, weight));
  if (!bias) return residual ? y + *residual : y;
  at::Tensor z = y + *bias;
  return residual ? z.add_(*residual) : z;
}

}  // namespace axial::parallel
