// SPDX-License-Identifier: Apache-2.0
// Normalisation with vectors: compiled once per instruction set, chosen at run time by Highway.
// A row is read from memory once and from the first cache after that; sums are fp32 per lane.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/norm/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/common/simd_inl.h"
#include "axial/kernels/norm/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

template <class T>
void norm_forward_row(const NormForward& p, int64_t row) {
  const FloatTag d;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* weight = static_cast<const T*>(p.weight);
  const T* bias = static_cast<const T*>(p.bias);
  T* y = static_cast<T*>(p.y) + row * p.y_stride;
  const float width = static_cast<float>(p.cols);

  float mean = 0;
  if (p.kind == NormKind::kLayer) {
    Floats sum = hn::Zero(d);
    for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR { sum = hn::Add(sum, load(x + i, part)); });
    mean = sum_lanes(sum) / width;
  }
  const Floats means = hn::Set(d, mean);
  Floats squares = hn::Zero(d);
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    const Floats centred = select(hn::Sub(load(x + i, part), means), hn::Zero(d), part);
    squares = hn::MulAdd(centred, centred, squares);
  });
  const float rstd = 1 / std::sqrt(sum_lanes(squares) / width + static_cast<float>(p.eps));
  const Floats rstds = hn::Set(d, rstd);
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    const Floats normal = hn::Mul(hn::Sub(load(x + i, part), means), rstds);
    const Floats scaled = hn::Mul(normal, load(weight + i, part));
    store(bias == nullptr ? scaled : hn::Add(scaled, load(bias + i, part)), y + i, part);
  });
  if (p.mean != nullptr) static_cast<float*>(p.mean)[row] = mean;
  if (p.rstd != nullptr) static_cast<float*>(p.rstd)[row] = rstd;
}

struct RowMeans {
  float g = 0;   // mean of g = dy * weight, 0 for RMS
  float gn = 0;  // mean of g * normal
};

template <class T>
RowMeans row_means(const NormBackward& p, const T* dy, const T* x, float mean, float rstd) {
  const FloatTag d;
  const T* weight = static_cast<const T*>(p.weight);
  const Floats means = hn::Set(d, mean);
  Floats sum_g = hn::Zero(d);
  Floats sum_gx = hn::Zero(d);
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    const Floats g = hn::Mul(load(dy + i, part), load(weight + i, part));
    sum_g = hn::Add(sum_g, g);
    sum_gx = hn::MulAdd(g, hn::Sub(load(x + i, part), means), sum_gx);
  });
  const float width = static_cast<float>(p.cols);
  return {p.kind == NormKind::kLayer ? sum_lanes(sum_g) / width : 0.0f, sum_lanes(sum_gx) * rstd / width};
}

// Formulas: reference.cpp. `dweight` and `dbias` are this piece's sums, or null.
template <class T>
void norm_backward_row(const NormBackward& p, int64_t row, float* dweight, float* dbias) {
  const FloatTag d;
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* weight = static_cast<const T*>(p.weight);
  const float mean = p.kind == NormKind::kLayer ? static_cast<const float*>(p.mean)[row] : 0.0f;
  const float rstd = static_cast<const float*>(p.rstd)[row];
  const Floats means = hn::Set(d, mean);
  const Floats rstds = hn::Set(d, rstd);

  if (p.dx != nullptr) {
    const RowMeans m = row_means(p, dy, x, mean, rstd);
    const Floats mean_g = hn::Set(d, m.g);
    const Floats mean_gn = hn::Set(d, m.gn);
    T* dx = static_cast<T*>(p.dx) + row * p.dx_stride;
    for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
      const Floats g = hn::Mul(load(dy + i, part), load(weight + i, part));
      const Floats normal = hn::Mul(hn::Sub(load(x + i, part), means), rstds);
      store(hn::Mul(rstds, hn::NegMulAdd(normal, mean_gn, hn::Sub(g, mean_g))), dx + i, part);
    });
  }
  if (dweight == nullptr) return;
  for_lanes(p.cols, [&](int64_t i, auto part) HWY_ATTR {
    const Floats grad = load(dy + i, part);
    const Floats normal = hn::Mul(hn::Sub(load(x + i, part), means), rstds);
    store(hn::MulAdd(grad, normal, load(dweight + i, part)), dweight + i, part);
    store(hn::Add(grad, load(dbias + i, part)), dbias + i, part);
  });
}

void norm_forward_rows(const NormForward& p, int64_t begin, int64_t end) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) norm_forward_row<T>(p, row);
  });
}

void norm_backward_rows(const NormBackward& p, int64_t begin, int64_t end, float* dweight, float* dbias) {
  dispatch_narrow(p.dtype, [&]<class T>() HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) norm_backward_row<T>(p, row, dweight, dbias);
  });
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(norm_forward_rows);
HWY_EXPORT(norm_backward_rows);

namespace norm {

Status simd_forward(const NormForward& params, const ParallelFor& parallel_for) {
  parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(norm_forward_rows)(params, begin, end);
  });
  return {};
}

Status simd_backward(const NormBackward& params, const ParallelFor& parallel_for) {
  const bool sums = params.dweight != nullptr || params.dbias != nullptr;
  const RowSplits splits = row_splits(params.rows);
  const int64_t cols = params.cols;
  float* parts = static_cast<float*>(params.workspace);
  parallel_for(splits.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      float* dweight = sums ? parts + s * 2 * cols : nullptr;
      float* dbias = sums ? dweight + cols : nullptr;
      if (sums) std::fill(dweight, dweight + 2 * cols, 0.0f);
      HWY_DYNAMIC_DISPATCH(norm_backward_rows)(params, splits.begin(s), splits.end(s), dweight, dbias);
    }
  });
  dispatch_floating(params.dtype, "norm", [&]<class T>() {
    if constexpr (!std::is_same_v<T, double>) {
      if (params.dweight != nullptr) {
        add_parts(parts, splits.count, 2 * cols, cols, static_cast<T*>(params.dweight), parallel_for);
      }
      if (params.dbias != nullptr) {
        add_parts(parts + cols, splits.count, 2 * cols, cols, static_cast<T*>(params.dbias), parallel_for);
      }
    }
  });
  return {};
}

}  // namespace norm
}  // namespace axial::kernels
#endif
