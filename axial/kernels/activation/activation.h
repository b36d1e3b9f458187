// SPDX-License-Identifier: Apache-2.0
// Contract of the activation kernels.
#pragma once

namespace axial::kernels {

/// Activation function of a feed-forward layer.
enum class Activation {
  kGeluErf,   ///< x * Phi(x), exact
  kGeluTanh,  ///< tanh approximation ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
  kSilu,      ///< x * sigmoid(x)
  kRelu,      ///< max(x, 0)
};

}  // namespace axial::kernels
