// SPDX-License-Identifier: Apache-2.0
// Attention backward on vectors. Compiled once per instruction set, chosen at run time by Highway.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/attention/simd_backward.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "axial/kernels/attention/backward_inl.h"
#include "axial/kernels/attention/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

void simd_backward_unit(const AttentionBackward& p, const Plan& plan, int64_t unit, const BackwardBuffers& b,
                        const BackwardSums& sums) {
  backward_unit<SimdProducts>(p, plan, unit, b, sums);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(simd_backward_unit);

namespace attention {

int64_t simd_workspace(const AttentionBackward& params) {
  const Plan plan = plan_backward(params);
  const int64_t slots = std::min(plan.units(), std::max<int64_t>(params.num_threads, 1));
  const int64_t floats =
      BackwardSums(params, plan, nullptr).floats + slots * BackwardBuffers(params, plan, nullptr).floats;
  return floats * static_cast<int64_t>(sizeof(float));
}

Status simd_backward(const AttentionBackward& params, const ParallelFor& parallel_for) {
  const Plan plan = plan_backward(params);
  const BackwardSums sums(params, plan, static_cast<float*>(params.workspace));
  float* threads = static_cast<float*>(params.workspace) + sums.floats;
  const int64_t floats = BackwardBuffers(params, plan, nullptr).floats;
  clear_sums(params, plan, sums, parallel_for);
  for_units(plan.units(), params.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    const BackwardBuffers buffers(params, plan, threads + slot * floats);
    HWY_DYNAMIC_DISPATCH(simd_backward_unit)(params, plan, unit, buffers, sums);
  });
  finish_sums(params, plan, sums, parallel_for);
  return {};
}

}  // namespace attention
}  // namespace axial::kernels
#endif
