// SPDX-License-Identifier: Apache-2.0
// y = act(x + bias) and its gradient with vectors: compiled once per instruction set, chosen at run
// time by Highway.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/activation/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "axial/kernels/activation/curve_inl.h"
#include "axial/kernels/activation/implementations.h"
#include "axial/kernels/common/row_splits.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

template <class T, Activation kKind>
void forward_row(const ActivationForward& p, int64_t row) {
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* bias = static_cast<const T*>(p.bias);
  T* y = static_cast<T*>(p.y) + row * p.y_stride;
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    Floats input = load(x + i, part);
    if (bias != nullptr) input = hn::Add(input, load(bias + i, part));
    store(curve<kKind>(input).value, y + i, part);
  });
}

template <class T, Activation kKind>
void backward_row(const ActivationBackward& p, int64_t row, float* dbias) {
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* bias = static_cast<const T*>(p.bias);
  T* dx = p.dx == nullptr ? nullptr : static_cast<T*>(p.dx) + row * p.dx_stride;
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    Floats input = load(x + i, part);
    if (bias != nullptr) input = hn::Add(input, load(bias + i, part));
    const Floats gradient = hn::Mul(load(dy + i, part), curve<kKind>(input).slope);
    if (dx != nullptr) store(gradient, dx + i, part);
    if (dbias != nullptr) store(hn::Add(gradient, load(dbias + i, part)), dbias + i, part);
  });
}

void activation_forward_rows(const ActivationForward& p, int64_t begin, int64_t end) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    activation::dispatch_kind(p.kind, [&]<Activation kKind>() HWY_ATTR {
      for (int64_t row = begin; row < end; ++row) forward_row<T, kKind>(p, row);
    });
  });
}

void activation_backward_rows(const ActivationBackward& p, int64_t begin, int64_t end, float* dbias) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    activation::dispatch_kind(p.kind, [&]<Activation kKind>() HWY_ATTR {
      for (int64_t row = begin; row < end; ++row) backward_row<T, kKind>(p, row, dbias);
    });
  });
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(activation_forward_rows);
HWY_EXPORT(activation_backward_rows);

namespace activation {

Status simd_forward(const ActivationForward& params, const ParallelFor& parallel_for) {
  parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(activation_forward_rows)(params, begin, end);
  });
  return {};
}

Status simd_backward(const ActivationBackward& params, const ParallelFor& parallel_for) {
  if (params.dbias == nullptr) {
    parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(activation_backward_rows)(params, begin, end, nullptr);
    });
    return {};
  }
  const RowSplits splits = row_splits(params.rows);
  float* parts = static_cast<float*>(params.workspace);
  parallel_for(splits.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      float* part = parts + s * params.cols;
      std::fill(part, part + params.cols, 0.0f);
      HWY_DYNAMIC_DISPATCH(activation_backward_rows)(params, splits.begin(s), splits.end(s), part);
    }
  });
  dispatch_floating(params.dtype, "activation", [&]<class T>() {
    if constexpr (!std::is_same_v<T, double>) {
      add_parts(parts, splits.count, params.cols, params.cols, static_cast<T*>(params.dbias), parallel_for);
    }
  });
  return {};
}

}  // namespace activation
}  // namespace axial::kernels
#endif
