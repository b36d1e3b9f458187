// SPDX-License-Identifier: Apache-2.0
// The implementations behind activation.h, for its tables only.
#pragma once

#include "axial/kernels/activation/activation.h"

namespace axial::kernels::activation {

/// Call `f.template operator()<kind>()`, so that a loop is compiled once per function.
template <class F>
inline __attribute__((always_inline)) void dispatch_kind(Activation kind, const F& f) {
  switch (kind) {
    case Activation::kGeluErf:
      return f.template operator()<Activation::kGeluErf>();
    case Activation::kGeluTanh:
      return f.template operator()<Activation::kGeluTanh>();
    case Activation::kSilu:
      return f.template operator()<Activation::kSilu>();
    case Activation::kRelu:
      return f.template operator()<Activation::kRelu>();
  }
}

/// Plain loops with the C library's functions: the specification, and what serves fp64.
Status reference_forward(const ActivationForward& params, const ParallelFor& parallel_for);
Status reference_backward(const ActivationBackward& params, const ParallelFor& parallel_for);
Status reference_gated_forward(const GatedForward& params, const ParallelFor& parallel_for);
Status reference_gated_backward(const GatedBackward& params, const ParallelFor& parallel_for);

/// Vectors of the best instruction set of this machine (Highway); fp32, bf16, fp16.
Status simd_forward(const ActivationForward& params, const ParallelFor& parallel_for);
Status simd_backward(const ActivationBackward& params, const ParallelFor& parallel_for);
Status simd_gated_forward(const GatedForward& params, const ParallelFor& parallel_for);
Status simd_gated_backward(const GatedBackward& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels::activation
