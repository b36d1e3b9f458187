// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (Su et al., 2021) as a differentiable op over kernels/rotary.
#pragma once

#include <ATen/core/Tensor.h>

namespace axial::ops {

/// Rotate pairs (i, i + R/2) of the first R entries of each head by position * inv_freq[i]; the rest
/// passes through (GPT-NeoX and Llama convention).
///
/// T tokens, H heads, D head width, R = 2 * len(inv_freq) <= D.
///   x         [.., T, H, D]  fp64 | fp32 | bf16 | fp16, last dim contiguous
///   positions [.., T]        int64, leading dims as x
///   inv_freq  [R / 2]        fp64, host-computed (base, scaling)
///   returns   [.., T, H, D]  dtype of x, contiguous
/// Angles and their sines are computed in fp64, the rotation in fp32 (fp64 for fp64).
/// Gradients: x; of second order (the op is linear in x: its backward is the inverse rotation). Saves
/// positions and inv_freq. Local. Throws ValueError on a shape or dtype mismatch.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq);

}  // namespace axial::ops
