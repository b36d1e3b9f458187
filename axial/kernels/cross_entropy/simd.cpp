// SPDX-License-Identifier: Apache-2.0
// Cross-entropy with vectors: compiled once per instruction set, chosen at run time by Highway. The second
// pass of a row finds it in the first cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/cross_entropy/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/common/simd_exp_inl.h"
#include "axial/kernels/common/simd_inl.h"
#include "axial/kernels/cross_entropy/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

template <class T>
void cross_entropy_forward_row(const CrossEntropyForward& p, int64_t row) {
  const FloatTag d;
  const T* x = static_cast<const T*>(p.logits) + row * p.stride;
  const Floats lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  Floats tops = lowest;
  for_lanes(p.cols, [&](int64_t i, auto part)
                        HWY_ATTR { tops = hn::Max(tops, select(load(x + i, part), lowest, part)); });
  const float max = hn::GetLane(hn::MaxOfLanes(d, tops));
  const Floats maxes = hn::Set(d, max);
  Floats sum = hn::Zero(d);
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    sum = hn::Add(sum, select(exp_keeping_nan(d, hn::Sub(load(x + i, part), maxes)), hn::Zero(d), part));
  });
  const float lse = max + std::log(sum_lanes(sum));
  static_cast<float*>(p.log_sum_exp)[row] = lse;
  if (p.log_likelihood == nullptr) return;
  const int64_t label = p.labels[row];
  static_cast<float*>(p.log_likelihood)[row] = label == p.ignore ? 0.0f : static_cast<float>(x[label]) - lse;
}

template <class T>
void cross_entropy_backward_row(const CrossEntropyBackward& p, int64_t row) {
  const FloatTag d;
  const T* x = static_cast<const T*>(p.logits) + row * p.stride;
  T* grad = static_cast<T*>(p.grad_logits) + row * p.cols;
  const int64_t label = p.labels[row];
  if (label == p.ignore) {
    std::fill(grad, grad + p.cols, T(0.0f));
    return;
  }
  const float lse = static_cast<const float*>(p.log_sum_exp)[row];
  const float scale = static_cast<float>(p.scale);
  const Floats shift = hn::Set(d, lse), factor = hn::Set(d, scale);
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    store(hn::Mul(exp_keeping_nan(d, hn::Sub(load(x + i, part), shift)), factor), grad + i, part);
  });
  const float probability = std::exp(static_cast<float>(x[label]) - lse);
  grad[label] = static_cast<T>((probability - 1.0f) * scale);
}

void cross_entropy_forward_rows(const CrossEntropyForward& p, int64_t begin, int64_t end) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) cross_entropy_forward_row<T>(p, row);
  });
}

void cross_entropy_backward_rows(const CrossEntropyBackward& p, int64_t begin, int64_t end) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) cross_entropy_backward_row<T>(p, row);
  });
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(cross_entropy_forward_rows);
HWY_EXPORT(cross_entropy_backward_rows);

namespace cross_entropy {

Status simd_forward(const CrossEntropyForward& params, const ParallelFor& parallel_for) {
  parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(cross_entropy_forward_rows)(params, begin, end);
  });
  return {};
}

Status simd_backward(const CrossEntropyBackward& params, const ParallelFor& parallel_for) {
  parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(cross_entropy_backward_rows)(params, begin, end);
  });
  return {};
}

}  // namespace cross_entropy
}  // namespace axial::kernels
#endif
