// SPDX-License-Identifier: Apache-2.0
// The implementations behind norm.h, for its table only.
#pragma once

#include "axial/kernels/norm/norm.h"

namespace axial::kernels::norm {

/// Plain loops over one row after the other: the specification, and what serves fp64.
Status reference_forward(const NormForward& params, const ParallelFor& parallel_for);
Status reference_backward(const NormBackward& params, const ParallelFor& parallel_for);

/// Vectors of the best instruction set of this machine (Highway); fp32, bf16, fp16.
Status simd_forward(const NormForward& params, const ParallelFor& parallel_for);
Status simd_backward(const NormBackward& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels::norm
