// SPDX-License-Identifier: Apache-2.0
// The ulysses axis: a rank that held some positions of all heads gets all positions of some heads, and back.
// Called by sequence_attention.cpp and ring.cpp; differentiable where not said otherwise; one rank passes
// everything through.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "axial/parallel/collectives/collectives.h"

namespace axial::parallel::detail {

/// Heads of the ranks. Query heads are parted evenly, in order; a rank's key/value heads are those that its
/// query heads use, each once where its query heads fall evenly on them, else one for every query head.
class HeadExchange {
 public:
  /// `positions`: of each ulysses rank. `ranks` may be null where there is one.
  HeadExchange(int64_t heads, int64_t kv_heads, Sizes positions, Communicator* ranks);

  /// [B, L, H, D] of this rank's positions and all heads -> [B, all positions, own heads, D].
  at::Tensor to_heads(const at::Tensor& q) const;
  /// [2, B, L, G, D] -> [2, B, all positions, own key/value heads, D].
  at::Tensor keys_to_heads(const at::Tensor& kv) const;
  /// Gradients of those, in the dtype of sums, back to positions, in `dtype`: shares of a head that several
  /// ranks use travel and add up before they are rounded. No autograd.
  at::Tensor key_sums_to_positions(const at::Tensor& dkv, at::ScalarType dtype) const;
  /// [B or 1, H or 1, L, N] -> [.., own heads or 1, all positions, N].
  at::Tensor bias_to_heads(const at::Tensor& bias) const;
  /// [H] -> own heads.
  at::Tensor own_heads(const at::Tensor& slopes) const;
  /// The way back of to_heads.
  at::Tensor to_positions(const at::Tensor& out) const;

  /// Every rank has heads, and no key/value head goes to two: autograd's way back of keys_to_heads is exact.
  bool parts_all_heads() const { return kv_in_place_ && heads_.back() > 0; }

 private:
  Sizes positions_, heads_, kv_sizes_;
  std::vector<int64_t> kv_heads_;  // key/value heads in the order in which they are sent
  bool kv_in_place_ = true;        // they are all heads, in their order
  int64_t num_kv_heads_;
  int64_t rank_ = 0;
  Communicator* ranks_;
};

}  // namespace axial::parallel::detail
