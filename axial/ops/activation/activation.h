// SPDX-License-Identifier: Apache-2.0
// Pointwise activations of feed-forward layers, with the bias or the gate fused in.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "axial/kernels/activation/activation.h"

namespace axial::ops {

using kernels::Activation;

/// y = act(x + bias), in one pass.
///
///   x       [.., F]  fp64 | fp32 | bf16 | fp16
///   bias    [F]      dtype of x, or none
///   returns [.., F]  dtype of x
/// Gradients: x, bias; first order only. Saves x (and bias). Bias gradient is deterministic. Local.
at::Tensor activation(const at::Tensor& x, const std::optional<at::Tensor>& bias, Activation kind);

/// y = act(gate) * up (SwiGLU for kSilu, GEGLU for a gelu; Shazeer, 2020).
///
///   gate_up [.., 2F]  the first F columns are the gate, the rest `up`
///   returns [.., F]
/// Gradients: gate_up; first order only. Saves gate_up. Local.
at::Tensor gated_activation(const at::Tensor& gate_up, Activation kind);

}  // namespace axial::ops
