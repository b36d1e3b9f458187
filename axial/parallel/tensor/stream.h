// SPDX-License-Identifier: Apache-2.0
// The residual stream [B, L, C] of a model that is cut over `tensor`: whole on every rank, or with sequence
// regions cut along L. Blocks enter and leave the cut part of a layer through it, and know nothing else of
// ranks. Called by models and by the rest of this folder.
//
//   enter ... leave             forward           backward
//   whole stream                - .. all-reduce   all-reduce .. -             (Shoeybi et al., 2019)
//   cut stream                  all-gather .. reduce-scatter, and the same    (Korthikanti et al., 2022)
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "axial/parallel/block/block.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/placement/placement.h"

namespace axial::parallel {

/// How the blocks of a model are cut over `tensor`. Written by the model's parallelize before any step, read
/// by its blocks at every call.
struct TensorCut {
  int64_t degree = 1;
  bool sequence_regions = false;
};

/// The stream of one call of a block. One rank along `tensor`: every function returns its argument.
class TensorStream {
 public:
  /// `inputs` of the block: a cut stream needs "row_positions" [L], whose length is that of the whole rows
  /// here. While decoding the stream is always whole: a new token cannot be cut. Throws ValueError unless
  /// context.ranks has as many ranks along `tensor` as the model was cut for.
  TensorStream(const TensorCut& cut, const StepContext& context, const NamedTensors& inputs);

  /// Stream [B, L', C] -> [B, L, C] for a product whose outputs are cut (column).
  at::Tensor enter(const at::Tensor& x) const;
  /// Partial sums [B, L, C] of a product whose inputs are cut (row) -> stream [B, L', C].
  at::Tensor leave(const at::Tensor& x) const;
  /// Piece of a tensor that every rank has whole (ids, labels, positions) that belongs to the stream's
  /// positions here. Local; no gradient crosses ranks.
  at::Tensor own(const at::Tensor& x, int64_t dim) const;
  /// One value per position of the stream -> of all positions, on every rank.
  at::Tensor gather(const at::Tensor& x, int64_t dim) const;
  /// A sum over the stream's positions here -> over all of them, on every rank.
  at::Tensor total(const at::Tensor& x) const;

  /// For collectives of this folder; null for one rank along `tensor`.
  Communicator* ranks() const { return ranks_; }
  int64_t degree() const;
  bool is_cut() const { return !sizes_.empty(); }

 private:
  Communicator* ranks_ = nullptr;
  Sizes sizes_;  // positions of each rank; empty: the stream is whole
};

/// x W^T summed over the ranks, each with its columns of W, then bias and residual, once.
///
/// B rows, L positions, L' of them in the stream here, I_r inputs of this rank.
///   x         [B, L, I_r]
///   weight    [O, I_r]
///   bias      [O] or none         replicated; with a cut stream its gradient is partial over `tensor`
///   residual  [B, L', O] or none
///   returns   [B, L', O]
/// Gradients: all four. One rank: ops::linear with all of them in one product. Else one collective of
/// B * L * O elements forward, and one backward where the stream is cut.
at::Tensor row_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      const std::optional<at::Tensor>& residual, const TensorStream& stream);

}  // namespace axial::parallel
