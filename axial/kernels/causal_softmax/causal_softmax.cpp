// SPDX-License-Identifier: Apache-2.0
// SIMD implementation of causal_softmax.h through Highway: compiled for every x86 target, chosen at run
// time. A row is walked twice: maximum, then exp and sum; the tail is a masked vector, so a row's value
// does not depend on its neighbours or on the stripe it lies in.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/causal_softmax/causal_softmax.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "axial/kernels/causal_softmax/causal_softmax.h"
#include "axial/kernels/common/simd_exp_inl.h"
#include "axial/kernels/common/simd_wide_inl.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Columns that query row r sees.
template <class T>
int64_t visible(const CausalStripe<T>& s, int64_t r) {
  return std::min(s.cols, s.first_query + r + 1);
}

// Call op(vector of logits, column, lane count) over the visible part of a row.
template <class T, class D, class Op>
HWY_INLINE void for_logits(D d, const CausalStripe<T>& s, int64_t r, Op&& op) {
  const int64_t n = visible(s, r);
  const T* row = s.scores + r * s.ld;
  const auto scale = hn::Set(d, s.scale);
  const auto slope = hn::Set(d, s.slope);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto iota = hn::Iota(d, T(0));
  const T query = static_cast<T>(s.first_query + r);
  for (int64_t c = 0; c < n; c += lanes) {
    const int64_t count = std::min(lanes, n - c);
    const auto x =
        count == lanes ? load_as(d, row + c, All{}) : load_as(d, row + c, First{static_cast<size_t>(count)});
    const auto distance = hn::Add(iota, hn::Set(d, static_cast<T>(c) - query));
    op(hn::MulAdd(slope, distance, hn::Mul(x, scale)), c, count);
  }
}

template <class T, class D, class V>
HWY_INLINE void store_n(D d, V v, T* to, int64_t count) {
  if (count == static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, to);
  } else {
    store_as(d, v, to, First{static_cast<size_t>(count)});
  }
}

template <class T>
void softmax_rows(const CausalStripe<T>& s, T* log_sum_exp) {
  const hn::ScalableTag<T> d;
  for (int64_t r = 0; r < s.rows; ++r) {
    T* row = s.scores + r * s.ld;
    const auto lowest = hn::Set(d, -std::numeric_limits<T>::infinity());
    auto top = lowest;
    for_logits(d, s, r, [&](auto x, int64_t, int64_t count) {
      const auto lanes = hn::FirstN(d, static_cast<size_t>(count));
      top = hn::Max(top, hn::IfThenElse(lanes, x, lowest));
    });
    const T max = hn::GetLane(hn::MaxOfLanes(d, top));
    auto sum = hn::Zero(d);
    for_logits(d, s, r, [&](auto x, int64_t c, int64_t count) {
      const auto lanes = hn::FirstN(d, static_cast<size_t>(count));
      const auto e = hn::IfThenElseZero(lanes, exp_keeping_nan(d, hn::Sub(x, hn::Set(d, max))));
      sum = hn::Add(sum, e);
      store_n(d, e, row + c, count);
    });
    const T total = hn::GetLane(hn::SumOfLanes(d, sum));
    const auto inverse = hn::Set(d, T(1) / total);
    const int64_t n = visible(s, r);
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    int64_t c = 0;
    for (; c + lanes <= n; c += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, row + c), inverse), d, row + c);
    for (; c < n; ++c) row[c] *= T(1) / total;
    std::fill(row + n, row + s.cols, T(0));
    log_sum_exp[r] = max + std::log(total);
  }
}

template <class T>
void probability_rows(const CausalStripe<T>& s, const T* log_sum_exp) {
  const hn::ScalableTag<T> d;
  for (int64_t r = 0; r < s.rows; ++r) {
    T* row = s.scores + r * s.ld;
    const auto shift = hn::Set(d, log_sum_exp[r]);
    for_logits(d, s, r, [&](auto x, int64_t c, int64_t count) {
      store_n(d, exp_keeping_nan(d, hn::Sub(x, shift)), row + c, count);
    });
    std::fill(row + visible(s, r), row + s.cols, T(0));
  }
}

template <class T>
void backward_rows(const CausalStripe<T>& s, const T* delta, T* grad) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, s.scale);
  for (int64_t r = 0; r < s.rows; ++r) {
    const T* p = s.scores + r * s.ld;
    T* g = grad + r * s.ld;
    const auto shift = hn::Set(d, delta[r]);
    int64_t c = 0;
    for (; c + lanes <= s.cols; c += lanes) {
      const auto centred = hn::Sub(hn::LoadU(d, g + c), shift);
      hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, p + c), centred), scale), d, g + c);
    }
    for (; c < s.cols; ++c) g[c] = p[c] * (g[c] - delta[r]) * s.scale;
  }
}

void softmax_f32(const CausalStripe<float>& s, float* l) { softmax_rows(s, l); }
void softmax_f64(const CausalStripe<double>& s, double* l) { softmax_rows(s, l); }
void probabilities_f32(const CausalStripe<float>& s, const float* l) { probability_rows(s, l); }
void probabilities_f64(const CausalStripe<double>& s, const double* l) { probability_rows(s, l); }
void backward_f32(const CausalStripe<float>& s, const float* t, float* g) { backward_rows(s, t, g); }
void backward_f64(const CausalStripe<double>& s, const double* t, double* g) { backward_rows(s, t, g); }

}  // namespace HWY_NAMESPACE
}  // namespace axial::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(softmax_f32);
HWY_EXPORT(softmax_f64);
HWY_EXPORT(probabilities_f32);
HWY_EXPORT(probabilities_f64);
HWY_EXPORT(backward_f32);
HWY_EXPORT(backward_f64);

namespace {

template <class T>
Status check(const CausalStripe<T>& s) {
  if (s.rows < 0 || s.cols < 0 || s.ld < s.cols) {
    return Status::invalid(fmt::format(
        "stripe sizes; expected rows, cols >= 0 and ld >= cols, got {}, {} and {}", s.rows, s.cols, s.ld));
  }
  if (s.first_query < 0) return Status::invalid(fmt::format("first_query {} is negative", s.first_query));
  return {};
}

}  // namespace

Status causal_softmax(const CausalStripe<float>& s, float* l) {
  if (Status status = check(s); !status.ok()) return status;
  HWY_DYNAMIC_DISPATCH(softmax_f32)(s, l);
  return {};
}

Status causal_softmax(const CausalStripe<double>& s, double* l) {
  if (Status status = check(s); !status.ok()) return status;
  HWY_DYNAMIC_DISPATCH(softmax_f64)(s, l);
  return {};
}

Status causal_probabilities(const CausalStripe<float>& s, const float* l) {
  if (Status status = check(s); !status.ok()) return status;
  HWY_DYNAMIC_DISPATCH(probabilities_f32)(s, l);
  return {};
}

Status causal_probabilities(const CausalStripe<double>& s, const double* l) {
  if (Status status = check(s); !status.ok()) return status;
  HWY_DYNAMIC_DISPATCH(probabilities_f64)(s, l);
  return {};
}

Status causal_softmax_backward(const CausalStripe<float>& s, const float* delta, float* g) {
  if (Status status = check(s); !status.ok()) return status;
  HWY_DYNAMIC_DISPATCH(backward_f32)(s, delta, g);
  return {};
}

Status causal_softmax_backward(const CausalStripe<double>& s, const double* delta, double* g) {
  if (Status status = check(s); !status.ok()) return status;
  HWY_DYNAMIC_DISPATCH(backward_f64)(s, delta, g);
  return {};
}

}  // namespace axial::kernels
#endif
