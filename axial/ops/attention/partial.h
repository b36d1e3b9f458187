// SPDX-License-Identifier: Apache-2.0
// Attention over pieces of the keys: partial results in the dtype of sums, their merge, and each piece's
// share of the gradients. What parallel/sequence_attention makes a ring of; users call attention.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "axial/ops/attention/attention.h"

namespace axial::ops {

/// Attention of queries over some of their keys. X leading dims, I queries, H heads, D width.
struct AttentionPartial {
  at::Tensor out;         ///< [X.., I, H, D] fp32 (fp64 for fp64): softmax over these keys alone
  at::Tensor statistics;  ///< [X.., H, I, 2] likewise: the largest logit, the sum of exp(logit - largest)
};

/// attention() over the keys given, as axial::attention_partial (CPU, Meta). A query that sees none of them
/// has output 0 and statistics (-inf, 0). Arguments and errors are those of attention(); no autograd: with
/// grad mode on, inputs that require grad are refused.
AttentionPartial attention_partial(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const OptionalTensor& bias1, const OptionalTensor& bias2,
                                   const AttentionPattern& pattern, double scale);

/// Of rows that have seen nothing yet: zeros and (-inf, 0), for queries like `q`.
AttentionPartial empty_partial(const at::Tensor& q);

/// Merge `piece` into `sum`, in place: both become the result over all keys of the two. Rescales to the
/// larger maximum (Milakov and Gimelshein, 2018; Liu et al., 2023), so the order of merges changes roundings
/// alone. `sum` may be views (a range of queries); the last dims of all are contiguous. Throws ValueError.
void merge_partials(const AttentionPartial& sum, const AttentionPartial& piece);

/// Gradients by q, k, v, bias1 and bias2; undefined where not wanted.
using AttentionGradients = std::array<at::Tensor, 5>;

/// This piece's share of the gradients of the whole, as axial::attention_partial_backward (CPU, Meta):
/// `merged` is the merge over all pieces (out in the dtype of q or of sums), `grad` [X.., I, H, D] that of
/// the whole output. Shares of dq add up over pieces of keys, those of dk, dv and biases over pieces of
/// queries; they come in fp32 (fp64 for fp64). `wanted`: of q, k, v, bias1, bias2.
AttentionGradients attention_partial_backward(const at::Tensor& grad, const AttentionPartial& merged,
                                              const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                              const OptionalTensor& bias1, const OptionalTensor& bias2,
                                              const AttentionPattern& pattern, double scale,
                                              std::array<bool, 5> wanted = {true, true, true, false, false});

}  // namespace axial::ops
