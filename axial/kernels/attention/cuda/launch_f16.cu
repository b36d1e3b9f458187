// SPDX-License-Identifier: Apache-2.0
// Attention over float16 on CUDA devices: see launch.h.
#include "axial/kernels/attention/cuda/launch_inl.cuh"

namespace axial::kernels::attention::cuda {

template Status launch_forward<Float16>(const AttentionForward& params, void* stream);
template Status launch_backward<Float16>(const AttentionBackward& params, void* stream);

}  // namespace axial::kernels::attention::cuda
