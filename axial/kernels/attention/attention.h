// SPDX-License-Identifier: Apache-2.0
// Contract of exact softmax attention with biases, forward and backward, without stored logits.
//
// For every element of the leading dims, every query i and query head h (key/value head h * G / H):
//   logit[i, j] = scale * (q[i] . k[j]) + bias_0[i, j] + bias_1[i, j] + slope[h] * (pos_k[j] - pos_q[i])
//   p = softmax over the keys j that i sees,  out[i] = sum_j p[i, j] v[j]
// A key is not seen outside of [key_begin[i], key_end[i]), in blocks that the block mask leaves out, and
// where its logit is minus infinity; a bias equal to its dtype's lowest value counts as minus infinity.
// Keys and values that some query of the call sees must be finite: others of its tile meet them times 0.
// A query that sees no key has output 0, statistics (-inf, 0) and gives no gradient. One that sees a logit of
// NaN or plus infinity is NaN throughout, as are the gradients that it enters.
// Dao et al., 2022 (tiles, recomputed probabilities); Rabe and Staats, 2021; biases: Jumper et al., 2021.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

inline constexpr int64_t kExactKeys = 4096;  ///< up to here the backward keeps P and dP of a tile
inline constexpr int kMaxLeading = 6;        ///< leading dims after those that collapse are merged

/// Sizes. Legend of the shapes below: X leading dims, I queries, J keys, H heads, G key/value heads, D width.
struct AttentionSizes {
  int num_leading = 0;
  int64_t leading[kMaxLeading] = {};
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads
  int64_t width = 0;
};

/// A tensor [X.., I or J, H or G, D]; strides count elements, any value, 0 to broadcast an input.
struct AttentionTensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t leading[kMaxLeading] = {};
  int64_t row = 0;
  int64_t head = 0;
  int64_t col = 1;
};

/// An additive bias [X.., H, I, J], or its gradient; stride 0 broadcasts, and in a gradient sums.
struct AttentionBias {
  void* data = nullptr;  ///< null: there is none
  DType dtype = DType::kF32;
  int64_t leading[kMaxLeading] = {};
  int64_t head = 0;
  int64_t query = 0;
  int64_t key = 0;
};

/// An int64 per leading element and query (or key): [X.., I]; null data: the default of each use.
struct AttentionIndex {
  const int64_t* data = nullptr;
  int64_t leading[kMaxLeading] = {};
  int64_t item = 1;
};

/// Compressed sparse rows over blocks: query block r (of `query_block` queries) sees the key blocks
/// columns[row_begin[r]], .., columns[row_begin[r + 1] - 1], rising. One pattern for all heads and leading
/// dims.
struct AttentionBlockMask {
  int64_t query_block = 0;  ///< 0: no mask
  int64_t key_block = 0;
  const int64_t* row_begin = nullptr;  ///< [ceil(I / query_block) + 1]
  const int64_t* columns = nullptr;
};

/// What forward and backward share.
struct AttentionInputs {
  AttentionSizes sizes;
  AttentionTensor q, k, v;  ///< one dtype for all three
  AttentionBias bias[2];
  const float* slopes = nullptr;  ///< [H] ALiBi (Press et al., 2022), or null
  AttentionIndex q_positions;     ///< for ALiBi; default: i + J - I
  AttentionIndex k_positions;     ///< for ALiBi; default: j
  AttentionIndex key_begin;       ///< default: 0
  AttentionIndex key_end;         ///< default: J
  AttentionBlockMask mask;
  double scale = 1;
};

/// At most 8 queries for a key/value head over more keys, as in decoding, take a path of their own where no
/// statistics are wanted: its sums over the width have another order.
/// Statistics are [X.., H, I, 2] contiguous, fp32 (fp64 for fp64): the largest logit and the sum of
/// exp(logit - largest). Two pieces of keys merge by rescaling the sums and outputs to the larger maximum.
struct AttentionForward {
  AttentionInputs in;
  AttentionTensor out;         ///< [X.., I, H, D], dtype of q, or fp32 for a partial result
  void* statistics = nullptr;  ///< or null
  int64_t num_threads = 1;     ///< pieces that run at once; the workspace grows with it, the result does not
  void* workspace = nullptr;   ///< workspace_bytes(params), aligned to 64
  void* tile_workspace = nullptr;  ///< tile_workspace_bytes(params), likewise; null: no matrix tiles are used
};

/// Gradients, each null where it is not wanted. `out` and `statistics` may be those of a merge: the result is
/// then this piece's share of the gradients. Where they are not, the sum over keys of P dP is taken from the
/// probabilities themselves up to kExactKeys keys, which is more exact than the sum over columns of dO * O.
struct AttentionBackward {
  AttentionInputs in;
  AttentionTensor out;
  const void* statistics = nullptr;
  bool merged = false;  ///< out and statistics are those of a merge
  AttentionTensor dout;
  AttentionTensor dq, dk, dv;  ///< dtype of q, or fp32
  AttentionBias dbias[2];      ///< strides 0 where it sums; every element is written
  int64_t num_threads = 1;
  void* workspace = nullptr;
  void* tile_workspace = nullptr;
};

/// Forward: per thread one head's packed K and V and stripes of bias, O((I_s + D) * J).
/// Backward: besides, fp32 sums of dK, dV and of the biases' gradients for at most 8 splits; of a bias by key
/// (a mask) for each of X * H heads and at most 8 parts of the queries, also where the heads of a group share
/// it. Never proportional to X * I * J.
int64_t workspace_bytes(const AttentionForward& params);
int64_t workspace_bytes(const AttentionBackward& params);

/// What the matrix tiles of this CPU take besides, per thread O(D * J); 0 where it has none or they do not
/// suit. Apart from workspace_bytes, which is the same on every machine.
int64_t tile_workspace_bytes(const AttentionForward& params);
int64_t tile_workspace_bytes(const AttentionBackward& params);

/// Run the first implementation that accepts. Sums are fp32 (fp64 for fp64), equal to the bit for any
/// num_threads and any ParallelFor. Empty queries, keys or leading dims are fine; width 0 is refused.
Status attention_forward(const AttentionForward& params, const ParallelFor& parallel_for);
Status attention_backward(const AttentionBackward& params, const ParallelFor& parallel_for);

/// In order of preference; the last is the reference.
std::span<const Implementation<AttentionForward>> attention_forward_table();
std::span<const Implementation<AttentionBackward>> attention_backward_table();

}  // namespace axial::kernels
