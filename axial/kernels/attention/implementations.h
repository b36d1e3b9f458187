// SPDX-License-Identifier: Apache-2.0
// The implementations behind attention.h, for its table only.
#pragma once

#include "axial/kernels/attention/attention.h"

namespace axial::kernels::attention {

/// Sizes, dtypes of q, k and v, scale and block mask: what every implementation takes for granted.
Status check_inputs(const AttentionInputs& inputs);

/// Plain loops over one query after the other: the specification, and what serves fp64. The backward runs on
/// one thread where a bias has a gradient.
Status reference_forward(const AttentionForward& params, const ParallelFor& parallel_for);
Status reference_backward(const AttentionBackward& params, const ParallelFor& parallel_for);
int64_t reference_workspace(const AttentionForward& params);
int64_t reference_workspace(const AttentionBackward& params);

/// At most 8 queries for a key/value head: keys and values are read where they lie, lanes along the width.
Status few_supports(const AttentionForward& params);
Status few_forward(const AttentionForward& params, const ParallelFor& parallel_for);
int64_t few_workspace(const AttentionForward& params);

/// Tiles of queries in the lanes of the best instruction set of this machine (Highway); fp32, bf16, fp16.
Status simd_supports_forward(const AttentionForward& params);
Status simd_supports_backward(const AttentionBackward& params);
Status simd_forward(const AttentionForward& params, const ParallelFor& parallel_for);
Status simd_backward(const AttentionBackward& params, const ParallelFor& parallel_for);
int64_t simd_workspace(const AttentionForward& params);
int64_t simd_workspace(const AttentionBackward& params);

/// The same on matrix tiles (AMX), where the CPU and the system have them; at least 16 queries, widths
/// from 24. A query, or a gradient of an output, that is not finite makes NaN of all that it enters.
Status amx_supports_forward(const AttentionForward& params);
Status amx_supports_backward(const AttentionBackward& params);
Status amx_forward(const AttentionForward& params, const ParallelFor& parallel_for);
Status amx_backward(const AttentionBackward& params, const ParallelFor& parallel_for);
/// tile_workspace_bytes: besides that of simd.
int64_t amx_workspace(const AttentionForward& params);
int64_t amx_workspace(const AttentionBackward& params);

}  // namespace axial::kernels::attention
