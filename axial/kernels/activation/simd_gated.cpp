// SPDX-License-Identifier: Apache-2.0
// y = act(gate) * up and its gradient with vectors: compiled once per instruction set, chosen at run
// time by Highway.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/activation/simd_gated.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "axial/kernels/activation/curve_inl.h"
#include "axial/kernels/activation/implementations.h"
#include "axial/kernels/common/row_splits.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

template <class T, Activation kKind>
void gated_forward_row(const GatedForward& p, int64_t row) {
  const T* gate = static_cast<const T*>(p.gate_up) + row * p.gate_up_stride;
  const T* up = gate + p.cols;
  T* y = static_cast<T*>(p.y) + row * p.y_stride;
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    store(hn::Mul(curve<kKind>(load(gate + i, part)).value, load(up + i, part)), y + i, part);
  });
}

template <class T, Activation kKind>
void gated_backward_row(const GatedBackward& p, int64_t row) {
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
  const T* gate = static_cast<const T*>(p.gate_up) + row * p.gate_up_stride;
  const T* up = gate + p.cols;
  T* dgate = static_cast<T*>(p.dgate_up) + row * p.dgate_up_stride;
  T* dup = dgate + p.cols;
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    const Curve act = curve<kKind>(load(gate + i, part));
    const Floats g = load(dy + i, part);
    store(hn::Mul(hn::Mul(g, load(up + i, part)), act.slope), dgate + i, part);
    store(hn::Mul(g, act.value), dup + i, part);
  });
}

void gated_forward_rows(const GatedForward& p, int64_t begin, int64_t end) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    activation::dispatch_kind(p.kind, [&]<Activation kKind>() HWY_ATTR {
      for (int64_t row = begin; row < end; ++row) gated_forward_row<T, kKind>(p, row);
    });
  });
}

void gated_backward_rows(const GatedBackward& p, int64_t begin, int64_t end) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    activation::dispatch_kind(p.kind, [&]<Activation kKind>() HWY_ATTR {
      for (int64_t row = begin; row < end; ++row) gated_backward_row<T, kKind>(p, row);
    });
  });
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(gated_forward_rows);
HWY_EXPORT(gated_backward_rows);

namespace activation {

Status simd_gated_forward(const GatedForward& params, const ParallelFor& parallel_for) {
  parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(gated_forward_rows)(params, begin, end);
  });
  return {};
}

Status simd_gated_backward(const GatedBackward& params, const ParallelFor& parallel_for) {
  parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(gated_backward_rows)(params, begin, end);
  });
  return {};
}

}  // namespace activation
}  // namespace axial::kernels
#endif
