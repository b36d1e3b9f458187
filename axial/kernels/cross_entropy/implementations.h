// SPDX-License-Identifier: Apache-2.0
// The implementations behind cross_entropy.h, for its table only.
#pragma once

#include "axial/kernels/cross_entropy/cross_entropy.h"

namespace axial::kernels::cross_entropy {

/// Plain loops: the specification, and what serves fp64.
Status reference_forward(const CrossEntropyForward& params, const ParallelFor& parallel_for);
Status reference_backward(const CrossEntropyBackward& params, const ParallelFor& parallel_for);

/// Highway vectors; fp32, bf16, fp16.
Status simd_forward(const CrossEntropyForward& params, const ParallelFor& parallel_for);
Status simd_backward(const CrossEntropyBackward& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels::cross_entropy
