// SPDX-License-Identifier: Apache-2.0
// Normalisation in plain loops: the specification of norm.h. Sums are fp32, fp64 for fp64.
#include <cmath>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/norm/implementations.h"

namespace axial::kernels::norm {
namespace {

template <class T>
void forward_row(const NormForward& p, int64_t row) {
  using Acc = acc_t<T>;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* weight = static_cast<const T*>(p.weight);
  const T* bias = static_cast<const T*>(p.bias);
  T* y = static_cast<T*>(p.y) + row * p.y_stride;
  const Acc width = static_cast<Acc>(p.cols);

  Acc mean = 0;
  if (p.kind == NormKind::kLayer) {
    for (int64_t c = 0; c < p.cols; ++c) mean += static_cast<Acc>(x[c]);
    mean /= width;
  }
  Acc squares = 0;
  for (int64_t c = 0; c < p.cols; ++c) {
    const Acc centred = static_cast<Acc>(x[c]) - mean;
    squares += centred * centred;
  }
  const Acc rstd = 1 / std::sqrt(squares / width + static_cast<Acc>(p.eps));
  for (int64_t c = 0; c < p.cols; ++c) {
    const Acc normal = (static_cast<Acc>(x[c]) - mean) * rstd;
    const Acc shift = bias == nullptr ? Acc{0} : static_cast<Acc>(bias[c]);
    y[c] = static_cast<T>(normal * static_cast<Acc>(weight[c]) + shift);
  }
  if (p.mean != nullptr) static_cast<Acc*>(p.mean)[row] = mean;
  if (p.rstd != nullptr) static_cast<Acc*>(p.rstd)[row] = rstd;
}

// With g = dy * weight and n = (x - mean) * rstd:
//   dx = rstd * (g - mean(g) - n * mean(g * n)), where RMS has no mean(g);
//   dweight = sum over rows of dy * n, dbias = sum over rows of dy.
template <class T>
void backward_row(const NormBackward& p, int64_t row, acc_t<T>* dweight, acc_t<T>* dbias) {
  using Acc = acc_t<T>;
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* weight = static_cast<const T*>(p.weight);
  const bool centred = p.kind == NormKind::kLayer;
  const Acc mean = centred ? static_cast<const Acc*>(p.mean)[row] : Acc{0};
  const Acc rstd = static_cast<const Acc*>(p.rstd)[row];
  const Acc width = static_cast<Acc>(p.cols);

  Acc sum_g = 0;
  Acc sum_gn = 0;
  for (int64_t c = 0; c < p.cols; ++c) {
    const Acc normal = (static_cast<Acc>(x[c]) - mean) * rstd;
    const Acc g = static_cast<Acc>(dy[c]) * static_cast<Acc>(weight[c]);
    sum_g += g;
    sum_gn += g * normal;
    dweight[c] += static_cast<Acc>(dy[c]) * normal;
    dbias[c] += static_cast<Acc>(dy[c]);
  }
  if (p.dx == nullptr) return;
  T* dx = static_cast<T*>(p.dx) + row * p.dx_stride;
  const Acc mean_g = centred ? sum_g / width : Acc{0};
  const Acc mean_gn = sum_gn / width;
  for (int64_t c = 0; c < p.cols; ++c) {
    const Acc normal = (static_cast<Acc>(x[c]) - mean) * rstd;
    const Acc g = static_cast<Acc>(dy[c]) * static_cast<Acc>(weight[c]);
    dx[c] = static_cast<T>(rstd * (g - mean_g - normal * mean_gn));
  }
}

template <class T>
void backward(const NormBackward& p, const ParallelFor& parallel_for) {
  using Acc = acc_t<T>;
  const RowSplits splits = row_splits(p.rows);
  Acc* parts = static_cast<Acc*>(p.workspace);
  parallel_for(splits.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      Acc* dweight = parts + s * 2 * p.cols;
      std::fill(dweight, dweight + 2 * p.cols, Acc{0});
      for (int64_t row = splits.begin(s); row < splits.end(s); ++row) {
        backward_row<T>(p, row, dweight, dweight + p.cols);
      }
    }
  });
  if (p.dweight != nullptr) {
    add_parts(parts, splits.count, 2 * p.cols, p.cols, static_cast<T*>(p.dweight), parallel_for);
  }
  if (p.dbias != nullptr) {
    add_parts(parts + p.cols, splits.count, 2 * p.cols, p.cols, static_cast<T*>(p.dbias), parallel_for);
  }
}

}  // namespace

Status reference_forward(const NormForward& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "norm", [&]<class T>() {
    parallel_for(params.rows, row_grain(params.cols), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) forward_row<T>(params, row);
    });
  });
  return {};
}

Status reference_backward(const NormBackward& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "norm", [&]<class T>() { backward<T>(params, parallel_for); });
  return {};
}

}  // namespace axial::kernels::norm
