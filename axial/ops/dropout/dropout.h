// SPDX-License-Identifier: Apache-2.0
// Dropout keyed by position, not by call order: recompute, resume and any split of the batch or the
// sequence drop the same elements. Over kernels/dropout.
#pragma once

#include <ATen/core/Tensor.h>

#include "axial/core/rng/rng.h"

namespace axial::ops {

/// Zero each element with probability p and scale the rest by 1 / (1 - p).
///
/// B samples, T positions, C channels.
///   x          [B, T, C]  fp64 | fp32 | bf16 | fp16
///   sample_ids [B]        int64, global sample ids
///   positions  [T]        int64, global positions in the sample (row), not in the record
///   key        of (seed, step, site)
///   returns    [B, T, C]  dtype of x
/// Element (b, t, c) is decided by (key, sample_ids[b], positions[t], c) alone.
/// Gradients: x; of second order (linear in x). Saves nothing but its arguments: the mask is recomputed.
/// Local.
at::Tensor dropout(const at::Tensor& x, double p, RngKey key, const at::Tensor& sample_ids,
                   const at::Tensor& positions);

}  // namespace axial::ops
