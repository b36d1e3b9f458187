// SPDX-License-Identifier: Apache-2.0
// Rotary embedding in plain loops: the specification of rotary.h.
#include <cmath>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/rotary/implementations.h"

namespace axial::kernels::rotary_impl {
namespace {

template <class T>
void rotate_token(const Rotary& p, int64_t token) {
  using Acc = acc_t<T>;
  const T* x = static_cast<const T*>(p.x) + token * p.x_token_stride;
  T* y = static_cast<T*>(p.y) + token * p.y_token_stride;
  for (int64_t i = 0; i < p.pairs; ++i) {
    const double angle = static_cast<double>(p.positions[token]) * p.inv_freq[i];
    const Acc c = static_cast<Acc>(std::cos(angle));
    const Acc s = static_cast<Acc>(p.inverse ? -std::sin(angle) : std::sin(angle));
    for (int64_t h = 0; h < p.heads; ++h) {
      const Acc a = static_cast<Acc>(x[h * p.x_head_stride + i]);
      const Acc b = static_cast<Acc>(x[h * p.x_head_stride + p.pairs + i]);
      y[h * p.y_head_stride + i] = static_cast<T>(a * c - b * s);
      y[h * p.y_head_stride + p.pairs + i] = static_cast<T>(b * c + a * s);
    }
  }
  for (int64_t h = 0; h < p.heads; ++h) {
    for (int64_t i = 2 * p.pairs; i < p.head_dim; ++i)
      y[h * p.y_head_stride + i] = x[h * p.x_head_stride + i];
  }
}

}  // namespace

Status reference_rotary(const Rotary& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "rotary", [&]<class T>() {
    parallel_for(params.tokens, row_grain(params.heads * params.head_dim), [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) rotate_token<T>(params, token);
    });
  });
  return {};
}

}  // namespace axial::kernels::rotary_impl
