// SPDX-License-Identifier: Apache-2.0
// Dropout keyed by place: y = keep ? x / (1 - p) : 0, where keep is a function of (key, sample, position,
// channel) alone. Called by ops/dropout, forward and backward alike (the map is linear in x).
//
// The map: word c % 4 of philox(key.child(sample), position, c / 4); an element is dropped when the word is
// below round(p * 2^32). Cost: one Philox call per four elements.
#pragma once

#include <cstdint>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/core/rng/rng.h"

namespace axial::kernels {

/// B samples, T positions, C channels. Strides count elements; channels are contiguous.
struct DropoutParams {
  DType dtype = DType::kF32;
  int64_t batch = 0;
  int64_t tokens = 0;
  int64_t channels = 0;
  double p = 0;                         ///< probability of dropping, in [0, 1]
  RngKey key;                           ///< of (seed, step, site)
  const int64_t* sample_ids = nullptr;  ///< [B] global sample ids
  const int64_t* positions = nullptr;   ///< [T] global positions in the sample
  const void* x = nullptr;              ///< [B, T, C]
  int64_t x_batch_stride = 0;
  int64_t x_token_stride = 0;
  void* y = nullptr;  ///< [B, T, C] contiguous; may not overlap x unless equal to it
};

/// Needs no workspace. Invalid: a negative size or p outside [0, 1]; unsupported: integer dtypes.
Status dropout(const DropoutParams& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels
