// SPDX-License-Identifier: Apache-2.0
// Attention over bfloat16 on the matrix tiles of x86 (AMX), where this CPU and the system have them: what the
// tables of attention.cpp try before vectors. Tiles, masks and sums are those of forward_inl.h and
// backward_inl.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "axial/kernels/attention/amx.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "axial/kernels/attention/amx_inl.h"
#include "axial/kernels/attention/backward_inl.h"
#include "axial/kernels/attention/forward_inl.h"
#include "axial/kernels/attention/implementations.h"

#if HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

void amx_forward_unit(const AttentionForward& p, const Plan& plan, int64_t unit, const ForwardBuffers& b) {
  forward_unit<TileProducts>(p, plan, unit, b);
}

void amx_backward_unit(const AttentionBackward& p, const Plan& plan, int64_t unit, const BackwardBuffers& b,
                       const BackwardSums& sums) {
  backward_unit<TileProducts>(p, plan, unit, b, sums);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_AVX3

#if HWY_ONCE
#if HWY_ARCH_X86 && defined(__linux__) && (HWY_TARGETS & HWY_AVX3)
#define AXIAL_HAS_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace axial::kernels::attention {
namespace {

#ifdef AXIAL_HAS_AMX
// Whether the CPU has tiles of bfloat16 and the system lets this process use them.
bool has_tiles() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTile) == 0 || (d & kBf16) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl(2), Linux 5.16
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has && (hwy::SupportedTargets() & HWY_AVX3) != 0;
}
#else
bool has_tiles() { return false; }
#endif

int64_t slots_of(const Plan& plan, int64_t num_threads) {
  return std::min(plan.units(), std::max<int64_t>(num_threads, 1));
}

TileBuffers tiles_of(const ForwardBuffers& b, float* base) {
  return {b.width, b.terms.padded_keys, false, base};
}
TileBuffers tiles_of(const BackwardBuffers& b, float* base) {
  return {b.width, b.terms.padded_keys, true, base};
}

// Widths that fill tiles well enough, and more queries than a few.
Status amx_supports(const AttentionInputs& in) {
  constexpr int64_t kLeastWidth = 24, kLeastQueries = 16;
  if (in.q.dtype != DType::kBF16) {
    return Status::unsupported(fmt::format("expected bfloat16, got {}", name_of(in.q.dtype)));
  }
  if (!has_tiles()) return Status::unsupported("this machine has no matrix tiles (AMX)");
  if (in.sizes.width < kLeastWidth || in.sizes.queries < kLeastQueries) {
    return Status::unsupported(fmt::format("expected at least {} queries of width {}, got {} of {}",
                                           kLeastQueries, kLeastWidth, in.sizes.queries, in.sizes.width));
  }
  return {};
}

}  // namespace

Status amx_supports_forward(const AttentionForward& params) {
  const Status status = simd_supports_forward(params);
  if (!status.ok()) return status;
  if (params.tile_workspace == nullptr) return Status::unsupported("no workspace for matrix tiles");
  return amx_supports(params.in);
}

Status amx_supports_backward(const AttentionBackward& params) {
  const Status status = simd_supports_backward(params);
  if (!status.ok()) return status;
  if (params.tile_workspace == nullptr) return Status::unsupported("no workspace for matrix tiles");
  return amx_supports(params.in);
}

int64_t amx_workspace(const AttentionForward& params) {
  if (!simd_supports_forward(params).ok() || !amx_supports(params.in).ok()) return 0;
  const Plan plan = plan_forward(params.in);
  return slots_of(plan, params.num_threads) *
         tiles_of(ForwardBuffers(params.in, plan, nullptr), nullptr).floats *
         static_cast<int64_t>(sizeof(float));
}

int64_t amx_workspace(const AttentionBackward& params) {
  if (!simd_supports_backward(params).ok() || !amx_supports(params.in).ok()) return 0;
  const Plan plan = plan_backward(params);
  return slots_of(plan, params.num_threads) *
         tiles_of(BackwardBuffers(params, plan, nullptr), nullptr).floats *
         static_cast<int64_t>(sizeof(float));
}

#ifdef AXIAL_HAS_AMX
Status amx_forward(const AttentionForward& params, const ParallelFor& parallel_for) {
  const Plan plan = plan_forward(params.in);
  const ForwardBuffers sizes(params.in, plan, nullptr);
  const int64_t tile_floats = tiles_of(sizes, nullptr).floats;
  for_units(plan.units(), params.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    ForwardBuffers buffers(params.in, plan, static_cast<float*>(params.workspace) + slot * sizes.floats);
    buffers.tiles = tiles_of(buffers, static_cast<float*>(params.tile_workspace) + slot * tile_floats);
    N_AVX3::amx_forward_unit(params, plan, unit, buffers);
  });
  return {};
}

Status amx_backward(const AttentionBackward& params, const ParallelFor& parallel_for) {
  const Plan plan = plan_backward(params);
  const BackwardSums sums(params, plan, static_cast<float*>(params.workspace));
  float* threads = static_cast<float*>(params.workspace) + sums.floats;
  const BackwardBuffers sizes(params, plan, nullptr);
  const int64_t tile_floats = tiles_of(sizes, nullptr).floats;
  clear_sums(params, plan, sums, parallel_for);
  for_units(plan.units(), params.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    BackwardBuffers buffers(params, plan, threads + slot * sizes.floats);
    buffers.tiles = tiles_of(buffers, static_cast<float*>(params.tile_workspace) + slot * tile_floats);
    N_AVX3::amx_backward_unit(params, plan, unit, buffers, sums);
  });
  finish_sums(params, plan, sums, parallel_for);
  return {};
}
#else
Status amx_forward(const AttentionForward& params, const ParallelFor&) { return amx_supports(params.in); }
Status amx_backward(const AttentionBackward& params, const ParallelFor&) { return amx_supports(params.in); }
#endif

}  // namespace axial::kernels::attention
#endif  // HWY_ONCE
