// SPDX-License-Identifier: Apache-2.0
// Gradients that several units add up: where each writes its share, and how the shares become the result, in
// an order that the shape fixes. Used by simd_backward.cpp.
#pragma once

#include "axial/kernels/attention/buffers.h"

namespace axial::kernels::attention {

/// fp32 shares in the workspace, before the threads' buffers; null where the result is written at once.
/// R = X * H heads of all leading elements, P parts of the queries, S splits of the walk.
struct BackwardSums {
  BackwardSums(const AttentionBackward& params, const Plan& plan, float* base);
  Pieces pieces;
  float* dk = nullptr;      ///< [P, X.., G, J, D], of the keys that the part's queries see
  float* dv = nullptr;      ///< as dk
  float* dense[2] = {};     ///< [S, extent.count] where the plan says summed
  float* by_key[2] = {};    ///< [R, P, J]
  float* by_query[2] = {};  ///< [R, I]
  BiasExtent extents[2];    ///< of the dense ones
  int64_t uncleared = 0;    ///< floats of dk and dv: each part clears what it adds to
  int64_t floats = 0;

  int64_t kv_row(const AttentionSizes& sizes, const Place& place) const;
};

/// Zero what units add to, and the results that not every unit writes.
void clear_sums(const AttentionBackward& params, const Plan& plan, const BackwardSums& sums,
                const ParallelFor& parallel_for);

/// Add the shares in order and round them into the results.
void finish_sums(const AttentionBackward& params, const Plan& plan, const BackwardSums& sums,
                 const ParallelFor& parallel_for);

}  // namespace axial::kernels::attention
