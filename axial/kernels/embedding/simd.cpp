// SPDX-License-Identifier: Apache-2.0
// The gradient of row lookup with vectors: compiled once per instruction set, chosen at run time by
// Highway. Four vectors of sums stay in registers while the gradient rows of an id pass by. An element is
// summed in the same order as in reference.cpp, so both give the same bits.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/embedding/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "axial/kernels/common/simd_wide_inl.h"
#include "axial/kernels/embedding/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

// Sum `rows` rows of x at `order` (stride between rows) into one row of `width` columns.
template <class T>
void sum_rows(const T* x, int64_t stride, const int64_t* order, int64_t rows, T* to, int64_t width) {
  const AccTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + 4 * lanes <= width; c += 4 * lanes) {
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t i = 0; i < rows; ++i) {
      const T* row = x + order[i] * stride + c;
      s0 = hn::Add(s0, load_as(d, row, All{}));
      s1 = hn::Add(s1, load_as(d, row + lanes, All{}));
      s2 = hn::Add(s2, load_as(d, row + 2 * lanes, All{}));
      s3 = hn::Add(s3, load_as(d, row + 3 * lanes, All{}));
    }
    store_as(d, s0, to + c, All{});
    store_as(d, s1, to + c + lanes, All{});
    store_as(d, s2, to + c + 2 * lanes, All{});
    store_as(d, s3, to + c + 3 * lanes, All{});
  }
  for_lanes_of(d, width - c, [&](int64_t i, auto part) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t r = 0; r < rows; ++r) sum = hn::Add(sum, load_as(d, x + order[r] * stride + c + i, part));
    store_as(d, sum, to + c + i, part);
  });
}

void sum_rows_f64(const double* x, int64_t stride, const int64_t* order, int64_t rows, double* to,
                  int64_t width) {
  sum_rows(x, stride, order, rows, to, width);
}
void sum_rows_f32(const float* x, int64_t stride, const int64_t* order, int64_t rows, float* to,
                  int64_t width) {
  sum_rows(x, stride, order, rows, to, width);
}
void sum_rows_bf16(const BFloat16* x, int64_t stride, const int64_t* order, int64_t rows, BFloat16* to,
                   int64_t width) {
  sum_rows(x, stride, order, rows, to, width);
}
void sum_rows_f16(const Float16* x, int64_t stride, const int64_t* order, int64_t rows, Float16* to,
                  int64_t width) {
  sum_rows(x, stride, order, rows, to, width);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(sum_rows_f64);
HWY_EXPORT(sum_rows_f32);
HWY_EXPORT(sum_rows_bf16);
HWY_EXPORT(sum_rows_f16);

namespace embedding_impl {
namespace {

template <class T>
using SumRows = void (*)(const T*, int64_t, const int64_t*, int64_t, T*, int64_t);

SumRows<double> sum_rows_of(double) { return HWY_DYNAMIC_DISPATCH(sum_rows_f64); }
SumRows<float> sum_rows_of(float) { return HWY_DYNAMIC_DISPATCH(sum_rows_f32); }
SumRows<BFloat16> sum_rows_of(BFloat16) { return HWY_DYNAMIC_DISPATCH(sum_rows_bf16); }
SumRows<Float16> sum_rows_of(Float16) { return HWY_DYNAMIC_DISPATCH(sum_rows_f16); }

}  // namespace

Status simd_backward(const EmbeddingBackward& params, const ParallelFor& parallel_for) {
  const Places places = sort_places(params);
  dispatch_floating(params.dtype, "embedding_backward", [&]<class T>() {
    const SumRows<T> sum_rows = sum_rows_of(T());
    for_each_block(params, places, parallel_for, [&](int64_t v, int64_t column, int64_t width) {
      T* to = static_cast<T*>(params.dweight) + v * params.dweight_stride + column;
      sum_rows(static_cast<const T*>(params.dout) + column, params.dout_stride,
               places.order + places.begin[v], places.begin[v + 1] - places.begin[v], to, width);
    });
  });
  return {};
}

}  // namespace embedding_impl
}  // namespace axial::kernels
#endif
