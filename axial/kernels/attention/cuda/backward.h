// SPDX-License-Identifier: Apache-2.0
// What the passes of attention's backward on CUDA share: its scratch memory, and P, dP and dS of a tile.
//   P = exp(S - largest) / sum,  dP = dO V^T,  dS = P (dP - delta),  delta = sum over columns of dO O
//   dV = P^T dO,  dK = dS^T Q scale,  dQ = dS K scale,  dBias = sum of dS
// Three passes compute P and dS again, so that every gradient is summed by one block in a fixed order: of
// queries (backward_queries.h), of keys (backward_keys.h), of dense biases (backward_bias.h). Before them
// delta, after them sums of what biases by key or by query take (sums.h).
#pragma once

#include "axial/kernels/attention/cuda/key_walk.h"

namespace axial::kernels::attention::cuda {

/// Legend: X leading elements, H heads, I queries, J keys.
struct BackwardScratch {
  float* delta = nullptr;     ///< [X, H, I]
  float* by_query = nullptr;  ///< [X, H, I] sums of dS over keys, where a bias by query has a gradient
  float* by_key = nullptr;    ///< [X, H, J] over queries, likewise
  float* parts = nullptr;     ///< [splits, elements] of a dense bias's gradient
};

/// Of a query: P = exp(S - shift) * inverse, and delta.
struct QueryRow {
  float shift, inverse, delta;
};

/// `row` counts queries of heads of leading elements. A query that sees nothing has P = 0.
AXIAL_DEVICE QueryRow query_row(const AttentionBackward& p, const BackwardScratch& scratch, int64_t row) {
  const float* statistics = static_cast<const float*>(p.statistics) + row * 2;
  const float sum = statistics[1];
  return {sum == 0 ? 0.0f : statistics[0], sum == 0 ? 0.0f : 1.0f / sum, scratch.delta[row]};
}

/// Logit and dP of a pair become P and dS; what is not seen may be anything. Where P rounds to 1 dS is below
/// rounding of dP, and 0: where a query sees one key it is 0 in truth, and delta, summed in another order
/// than dP, would leave its rounding.
AXIAL_DEVICE void differentiate(float& s, float& dp, const QueryRow& query, bool seen) {
  s = seen ? device::exp2_fast((s - query.shift) * kLog2e) * query.inverse : 0.0f;
  dp = s != 0 && s != 1 ? s * (dp - query.delta) : 0.0f;
}

}  // namespace axial::kernels::attention::cuda
