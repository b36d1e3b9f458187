// SPDX-License-Identifier: Apache-2.0
// Attention forward on vectors. Compiled once per instruction set, chosen at run time by Highway.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/attention/simd_forward.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "axial/kernels/attention/forward_inl.h"
#include "axial/kernels/attention/implementations.h"

HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {
namespace {

void simd_forward_unit(const AttentionForward& p, const Plan& plan, int64_t unit, const ForwardBuffers& b) {
  forward_unit<SimdProducts>(p, plan, unit, b);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace axial::kernels {
HWY_EXPORT(simd_forward_unit);

namespace attention {

int64_t simd_workspace(const AttentionForward& params) {
  const Plan plan = plan_forward(params.in);
  const int64_t slots = std::min(plan.units(), std::max<int64_t>(params.num_threads, 1));
  return slots * ForwardBuffers(params.in, plan, nullptr).floats * static_cast<int64_t>(sizeof(float));
}

Status simd_forward(const AttentionForward& params, const ParallelFor& parallel_for) {
  const Plan plan = plan_forward(params.in);
  const int64_t floats = ForwardBuffers(params.in, plan, nullptr).floats;
  for_units(plan.units(), params.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    const ForwardBuffers buffers(params.in, plan, static_cast<float*>(params.workspace) + slot * floats);
    HWY_DYNAMIC_DISPATCH(simd_forward_unit)(params, plan, unit, buffers);
  });
  return {};
}

}  // namespace attention
}  // namespace axial::kernels
#endif
