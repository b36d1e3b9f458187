// SPDX-License-Identifier: Apache-2.0
// Tensors that all ranks make alike and a rank with its stream: what the tests of this folder share.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "axial/core/check/check.h"
#include "axial/parallel/tensor/heads.h"
#include "axial/parallel/tensor/vocabulary.h"

namespace axial::parallel::test {

inline void require(bool ok, const std::string& text) {
  if (!ok) throw Error(text);
}

inline constexpr int64_t kBatch = 2, kLength = 7, kWidth = 5;

// Equal on all ranks without talking.
inline at::Tensor drawn(at::IntArrayRef shape, double salt) {
  return at::arange(c10::multiply_integers(shape), at::kDouble).mul_(1.7).add_(salt).sin_().view(shape);
}

inline at::Tensor ids_below(int64_t size, at::IntArrayRef shape) {
  return at::arange(c10::multiply_integers(shape), at::kLong).mul_(37).remainder_(size).view(shape);
}

inline double error_of(const at::Tensor& got, const at::Tensor& expected) {
  require(got.sizes() == expected.sizes(), "another shape");
  return expected.numel() == 0 ? 0.0 : (got - expected).abs().max().item<double>();
}

inline void near(const std::string& what, const at::Tensor& got, const at::Tensor& expected, double bound) {
  const double error = error_of(got.detach(), expected.detach());
  require(error <= bound, fmt::format("{}: off by {:.1e}, more than {:.0e}", what, error, bound));
}

// One rank of a launch, with a whole or a cut stream.
struct Rank {
  Communicator& ranks;
  bool cut;
  int64_t size = ranks.mesh().world_size(), rank = ranks.mesh().rank();
  StepContext context{{}, true, nullptr, &ranks};
  NamedTensors inputs{{"row_positions", at::arange(kLength)}};
  TensorStream stream{{size, cut}, context, inputs};

  Interval part(int64_t total) const {
    const auto part = at::arange(total, at::kLong).tensor_split(size)[static_cast<size_t>(rank)];
    return {part[0].item<int64_t>(), part[-1].item<int64_t>() + 1};
  }
  // Gradient of a parameter that is applied to the stream.
  at::Tensor whole_gradient(const at::Tensor& grad) const {
    return cut ? ranks.all_reduce(grad, {kTensorAxis}, ReduceOp::kSum) : grad;
  }
};

inline at::Tensor leaf(const at::Tensor& x) { return x.detach().clone().set_requires_grad(true); }

inline Parameter table_of(const at::Tensor& weight, Interval rows) {
  Parameter table;
  table.spec = {"table", weight.sizes().vec(), {}};
  table.holding = Holding::cut(table.spec.shape, 0, {rows});
  table.value = leaf(table.holding.select(weight));
  return table;
}

}  // namespace axial::parallel::test
