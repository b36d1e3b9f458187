// SPDX-License-Identifier: Apache-2.0
// Attention on CUDA devices from compute capability 8.0 on, for callers that have a stream and memory of a
// device: the contract of attention.h, with pointers to that device's memory. float16 and bfloat16, widths up
// to 128. Every gradient is summed in a fixed order, without atomics: results repeat to the bit.
#pragma once

#include "axial/kernels/attention/attention.h"

namespace axial::kernels::attention::cuda {

/// Ok, or unsupported with the reason.
Status supports(const AttentionForward& params);
Status supports(const AttentionBackward& params);

/// Bytes of `workspace`, in memory of the device and aligned to 16: of fp32 delta, of sums by query and by
/// key where a bias needs them, each [X, H, I] or [X, H, J], and of at most 8 parts of a dense bias's
/// gradient.
int64_t workspace_bytes(const AttentionBackward& params);

/// Enqueue on `stream` (a cudaStream_t) of the current device, after supports(); nothing waits, and a
/// captured graph may hold it. What pointers point to is read when the kernels run. kDevice where a launch
/// fails.
Status forward(const AttentionForward& params, void* stream);
Status backward(const AttentionBackward& params, void* stream);

/// Of one dtype, T = BFloat16 or Float16: what launch_bf16.cu and launch_f16.cu hold for the two above.
template <class T>
Status launch_forward(const AttentionForward& params, void* stream);
template <class T>
Status launch_backward(const AttentionBackward& params, void* stream);

}  // namespace axial::kernels::attention::cuda
