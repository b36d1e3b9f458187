// SPDX-License-Identifier: Apache-2.0
// Cross-entropy in plain loops: the specification of cross_entropy.h. Sums are fp32, fp64 for fp64.
#include <cmath>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/cross_entropy/implementations.h"

namespace axial::kernels::cross_entropy {
namespace {

template <class T>
void forward_row(const CrossEntropyForward& p, int64_t row) {
  using Acc = acc_t<T>;
  const T* x = static_cast<const T*>(p.logits) + row * p.stride;
  Acc max = static_cast<Acc>(x[0]);
  for (int64_t c = 1; c < p.cols; ++c) max = std::max(max, static_cast<Acc>(x[c]));
  Acc sum = 0;
  for (int64_t c = 0; c < p.cols; ++c) sum += std::exp(static_cast<Acc>(x[c]) - max);
  const Acc lse = max + std::log(sum);
  static_cast<Acc*>(p.log_sum_exp)[row] = lse;
  if (p.log_likelihood == nullptr) return;
  const int64_t label = p.labels[row];
  static_cast<Acc*>(p.log_likelihood)[row] = label == p.ignore ? Acc{0} : static_cast<Acc>(x[label]) - lse;
}

template <class T>
void backward_row(const CrossEntropyBackward& p, int64_t row) {
  using Acc = acc_t<T>;
  const T* x = static_cast<const T*>(p.logits) + row * p.stride;
  T* grad = static_cast<T*>(p.grad_logits) + row * p.cols;
  const int64_t label = p.labels[row];
  if (label == p.ignore) {
    std::fill(grad, grad + p.cols, T(Acc{0}));
    return;
  }
  const Acc lse = static_cast<const Acc*>(p.log_sum_exp)[row];
  const Acc scale = static_cast<Acc>(p.scale);
  for (int64_t c = 0; c < p.cols; ++c) {
    const Acc hot = c == label ? Acc{1} : Acc{0};
    grad[c] = static_cast<T>((std::exp(static_cast<Acc>(x[c]) - lse) - hot) * scale);
  }
}

}  // namespace

Status reference_forward(const CrossEntropyForward& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "cross_entropy", [&]<class T>() {
    parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) forward_row<T>(params, row);
    });
  });
  return {};
}

Status reference_backward(const CrossEntropyBackward& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "cross_entropy", [&]<class T>() {
    parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) backward_row<T>(params, row);
    });
  });
  return {};
}

}  // namespace axial::kernels::cross_entropy
