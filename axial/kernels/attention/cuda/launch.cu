// SPDX-License-Identifier: Apache-2.0
// The choice of a dtype for launch.h.
#include "axial/kernels/attention/cuda/launch.h"

namespace axial::kernels::attention::cuda {

Status forward(const AttentionForward& params, void* stream) {
  if (Status status = supports(params); !status.ok()) return status;
  return params.in.q.dtype == DType::kBF16 ? launch_forward<BFloat16>(params, stream)
                                           : launch_forward<Float16>(params, stream);
}

Status backward(const AttentionBackward& params, void* stream) {
  if (Status status = supports(params); !status.ok()) return status;
  return params.in.q.dtype == DType::kBF16 ? launch_backward<BFloat16>(params, stream)
                                           : launch_backward<Float16>(params, stream);
}

}  // namespace axial::kernels::attention::cuda
