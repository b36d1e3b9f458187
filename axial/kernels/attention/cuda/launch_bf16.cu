// SPDX-License-Identifier: Apache-2.0
// Attention over bfloat16 on CUDA devices: see launch.h.
#include "axial/kernels/attention/cuda/launch_inl.cuh"

namespace axial::kernels::attention::cuda {

template Status launch_forward<BFloat16>(const AttentionForward& params, void* stream);
template Status launch_backward<BFloat16>(const AttentionBackward& params, void* stream);

}  // namespace axial::kernels::attention::cuda
