// SPDX-License-Identifier: Apache-2.0
// The optimizer step in plain loops: the specification of optimizer_step.h.
#include "axial/kernels/optimizer_step/implementations.h"

namespace axial::kernels::optimizer_step {
namespace {

template <class T, class G>
void adamw(const AdamWPart<T, G>& part) {
  const AdamWScalars& s = part.scalars;
  for (int64_t i = 0; i < part.count; ++i) {
    const T g = static_cast<T>(static_cast<acc_t<G>>(part.grad[i])) * static_cast<T>(s.grad_scale);
    const T m = part.exp_avg[i] + static_cast<T>(s.one_minus_beta1) * (g - part.exp_avg[i]);
    const T v = static_cast<T>(s.beta2) * part.exp_avg_sq[i] + static_cast<T>(s.one_minus_beta2) * g * g;
    const T denominator = std::sqrt(v) * static_cast<T>(s.rsqrt_correction) + static_cast<T>(s.eps);
    const T p = part.parameter[i];
    part.exp_avg[i] = m;
    part.exp_avg_sq[i] = v;
    part.parameter[i] = p - (static_cast<T>(s.decay) * p + static_cast<T>(s.step_size) * m / denominator);
  }
  if (part.copy == nullptr) return;
  dispatch_floating(part.copy_dtype, "adamw_step", [&]<class C>() {
    C* copy = reinterpret_cast<C*>(part.copy);
    for (int64_t i = 0; i < part.count; ++i) copy[i] = static_cast<C>(static_cast<float>(part.parameter[i]));
  });
}

}  // namespace

Status reference_adamw_step(const AdamWStep& params, const ParallelFor& parallel_for) {
  dispatch_adamw(params, [&]<class T, class G>() {
    for_each_part(params.tensors, parallel_for, [&](size_t t, int64_t begin, int64_t end, int64_t) {
      adamw(adamw_part<T, G>(params, t, begin, end));
    });
  });
  return {};
}

Status reference_sum_of_squares(const SumOfSquares& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "sum_of_squares", [&]<class T>() {
    sum_parts<T>(params, parallel_for, [](const T* x, int64_t count) {
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        const double value = static_cast<acc_t<T>>(x[i]);
        sum += value * value;
      }
      return sum;
    });
  });
  return {};
}

Status reference_finite_check(const FiniteCheck& params, const ParallelFor& parallel_for) {
  dispatch_floating(params.dtype, "finite_check", [&]<class T>() {
    check_parts<T>(params, parallel_for, [](const T* x, int64_t count) {
      return std::all_of(x, x + count, [](T value) { return std::isfinite(static_cast<acc_t<T>>(value)); });
    });
  });
  return {};
}

}  // namespace axial::kernels::optimizer_step
