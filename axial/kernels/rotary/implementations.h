// SPDX-License-Identifier: Apache-2.0
// The implementations behind rotary.h, for its table only.
#pragma once

#include "axial/kernels/rotary/rotary.h"

namespace axial::kernels::rotary_impl {

Status simd_rotary(const Rotary& params, const ParallelFor& parallel_for);
Status reference_rotary(const Rotary& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels::rotary_impl
