// SPDX-License-Identifier: Apache-2.0
// Activations in plain loops: the specification of activation.h. Arithmetic in fp32, fp64 for fp64.
#include <cmath>

#include "axial/kernels/activation/implementations.h"
#include "axial/kernels/common/row_splits.h"

namespace axial::kernels::activation {
namespace {

template <class Acc>
struct Curve {
  Acc value;  // act(x)
  Acc slope;  // act'(x)
};

template <Activation kKind, class Acc>
Curve<Acc> curve(Acc x) {
  if constexpr (kKind == Activation::kGeluErf) {
    const Acc phi = static_cast<Acc>(0.5) * std::erfc(-x * static_cast<Acc>(0.70710678118654752440));
    const Acc density = static_cast<Acc>(0.39894228040143267794) * std::exp(static_cast<Acc>(-0.5) * x * x);
    return {x * phi, phi + x * density};
  } else if constexpr (kKind == Activation::kGeluTanh) {
    const Acc a = static_cast<Acc>(0.79788456080286535588);  // sqrt(2 / pi)
    const Acc b = static_cast<Acc>(0.044715);
    const Acc t = std::tanh(a * (x + b * x * x * x));
    const Acc half = static_cast<Acc>(0.5);
    return {half * x * (1 + t), half * (1 + t) + half * x * (1 - t * t) * a * (1 + 3 * b * x * x)};
  } else if constexpr (kKind == Activation::kSilu) {
    const Acc s = 1 / (1 + std::exp(-x));
    return {x * s, s * (1 + x * (1 - s))};
  } else {
    const bool off = x <= 0;  // false for NaN, which passes
    return {off ? Acc{0} : x, off ? Acc{0} : Acc{1}};
  }
}

template <class T>
const T* row_of(const void* base, int64_t row, int64_t stride) {
  return static_cast<const T*>(base) + row * stride;
}
template <class T>
T* row_of(void* base, int64_t row, int64_t stride) {
  return static_cast<T*>(base) + row * stride;
}

/// Call f<T, kind>(row) for each row, in parallel.
template <class Params, class F>
void for_rows(const Params& p, const ParallelFor& parallel_for, const F& f) {
  dispatch_floating(p.dtype, "activation", [&]<class T>() {
    dispatch_kind(p.kind, [&]<Activation kKind>() {
      parallel_for(p.rows, row_grain(p.cols), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) f.template operator()<T, kKind>(row);
      });
    });
  });
}

template <class T, Activation kKind>
void backward_row(const ActivationBackward& p, int64_t row, acc_t<T>* dbias) {
  using Acc = acc_t<T>;
  const T* dy = row_of<T>(p.dy, row, p.dy_stride);
  const T* x = row_of<T>(p.x, row, p.x_stride);
  const T* bias = static_cast<const T*>(p.bias);
  T* dx = p.dx == nullptr ? nullptr : row_of<T>(p.dx, row, p.dx_stride);
  for (int64_t c = 0; c < p.cols; ++c) {
    const Acc input = static_cast<Acc>(x[c]) + (bias == nullptr ? Acc{0} : static_cast<Acc>(bias[c]));
    const Acc gradient = static_cast<Acc>(dy[c]) * curve<kKind>(input).slope;
    if (dx != nullptr) dx[c] = static_cast<T>(gradient);
    if (dbias != nullptr) dbias[c] += gradient;
  }
}

}  // namespace

Status reference_forward(const ActivationForward& p, const ParallelFor& parallel_for) {
  for_rows(p, parallel_for, [&]<class T, Activation kKind>(int64_t row) {
    using Acc = acc_t<T>;
    const T* x = row_of<T>(p.x, row, p.x_stride);
    const T* bias = static_cast<const T*>(p.bias);
    T* y = row_of<T>(p.y, row, p.y_stride);
    for (int64_t c = 0; c < p.cols; ++c) {
      const Acc input = static_cast<Acc>(x[c]) + (bias == nullptr ? Acc{0} : static_cast<Acc>(bias[c]));
      y[c] = static_cast<T>(curve<kKind>(input).value);
    }
  });
  return {};
}

Status reference_backward(const ActivationBackward& p, const ParallelFor& parallel_for) {
  if (p.dbias == nullptr) {
    for_rows(p, parallel_for,
             [&]<class T, Activation kKind>(int64_t row) { backward_row<T, kKind>(p, row, nullptr); });
    return {};
  }
  const RowSplits splits = row_splits(p.rows);
  dispatch_floating(p.dtype, "activation", [&]<class T>() {
    acc_t<T>* parts = static_cast<acc_t<T>*>(p.workspace);
    dispatch_kind(p.kind, [&]<Activation kKind>() {
      parallel_for(splits.count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) {
          acc_t<T>* part = parts + s * p.cols;
          std::fill(part, part + p.cols, acc_t<T>{0});
          for (int64_t row = splits.begin(s); row < splits.end(s); ++row)
            backward_row<T, kKind>(p, row, part);
        }
      });
    });
    add_parts(parts, splits.count, p.cols, p.cols, static_cast<T*>(p.dbias), parallel_for);
  });
  return {};
}

Status reference_gated_forward(const GatedForward& p, const ParallelFor& parallel_for) {
  for_rows(p, parallel_for, [&]<class T, Activation kKind>(int64_t row) {
    using Acc = acc_t<T>;
    const T* gate = row_of<T>(p.gate_up, row, p.gate_up_stride);
    const T* up = gate + p.cols;
    T* y = row_of<T>(p.y, row, p.y_stride);
    for (int64_t c = 0; c < p.cols; ++c) {
      y[c] = static_cast<T>(curve<kKind>(static_cast<Acc>(gate[c])).value * static_cast<Acc>(up[c]));
    }
  });
  return {};
}

Status reference_gated_backward(const GatedBackward& p, const ParallelFor& parallel_for) {
  for_rows(p, parallel_for, [&]<class T, Activation kKind>(int64_t row) {
    using Acc = acc_t<T>;
    const T* dy = row_of<T>(p.dy, row, p.dy_stride);
    const T* gate = row_of<T>(p.gate_up, row, p.gate_up_stride);
    const T* up = gate + p.cols;
    T* dgate = row_of<T>(p.dgate_up, row, p.dgate_up_stride);
    T* dup = dgate + p.cols;
    for (int64_t c = 0; c < p.cols; ++c) {
      const Curve<Acc> act = curve<kKind>(static_cast<Acc>(gate[c]));
      const Acc g = static_cast<Acc>(dy[c]);
      dgate[c] = static_cast<T>(g * static_cast<Acc>(up[c]) * act.slope);
      dup[c] = static_cast<T>(g * act.value);
    }
  });
  return {};
}

}  // namespace axial::kernels::activation
