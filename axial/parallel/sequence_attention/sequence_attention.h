// SPDX-License-Identifier: Apache-2.0
// Causal attention of packed records whose rows lie on several ranks: the axes ulysses (sequence <-> heads)
// and ring (blocks of keys and values going round), alone or together. What a layer of a model calls; with
// neither axis it is ops::segment_attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "axial/parallel/block/block.h"

namespace axial::parallel {

struct SequenceAttentionOptions {
  std::optional<at::Tensor> alibi_slopes;  ///< [H] floating: adds slope * (key place - query place)
  std::optional<double> scale;             ///< of q . k; none: 1 / sqrt(D)
  int64_t window = 0;                      ///< keys at most this far back; 0: all of the record
  /// [B or 1, H or 1, L, N]: of this rank's queries and all keys of the row, in row order; dtype of q or
  /// fp32.
  std::optional<at::Tensor> bias;
  /// [B or 1, 1, A, N]: of all queries that this rank attends with (SequenceLayout::attended_positions), as
  /// its ulysses ranks know them alike. A constant: has no gradient, and no byte of it is sent. fp32, or of
  /// the dtype of q; not beside `bias`.
  std::optional<at::Tensor> attended_bias;
  /// In place of attended_bias, for long rows: what it hides in one bit a pair, uint8 [B or 1, A, ceil(N /
  /// 8)] on the host (pair_bits.h). Queries then attend some at a time, and a bias is there for these alone.
  std::optional<at::Tensor> attended_bits;
  int64_t attended_queries = 0;  ///< that attend at a time with bits; 0: queries_at_a_time()
  /// Blocks of the row that see each other, for all heads and rows, as in ops::AttentionPattern: query block
  /// r sees the key blocks mask_columns[mask_rows[r]] to mask_columns[mask_rows[r + 1] - 1].
  std::optional<at::Tensor> mask_rows;     ///< [ceil(N / query_block) + 1] int64
  std::optional<at::Tensor> mask_columns;  ///< [mask_rows[-1]] int64
  int64_t query_block = 64;
  int64_t key_block = 64;
};

/// Every query attends to the keys of its record that are not after it, wherever they lie.
///
/// B rows of N positions, of which this rank holds L; T = B L; H heads, G key/value heads, D width.
///   q        [T, H, D]  fp64 | fp32 | bf16 | fp16, any strides
///   k, v     [T, G, D]  dtype of q; G divides H
///   batch    of SequenceLayout::make_batch: reads "segments", and where ranks share rows, or with a bias or
///            mask, "record_starts"
///   context  `ranks` and `sequence` say who holds what; neither: this rank holds whole rows; `head_groups`
///            parts the heads (key/value heads with their query heads, at most one group each)
///   returns  [T, H, D]  dtype of q
///
/// Gradients: q, k, v, bias; first order only. Collective over ring and ulysses: all of their ranks call it,
/// forward and backward, also those without positions. The same bits from run to run. Partial results, dQ and
/// the dK and dV on their way are fp32 (fp64 for fp64), so errors do not grow with the ranks.
///
/// Ulysses (Jacobs et al., 2023), u ranks: q, k, v and the result go through an all-to-all each way; heads
/// are parted as evenly as they can be, a rank gets the key/value heads that its query heads use (heads used
/// by several ranks are sent to each; where a rank's heads do not fall evenly on them, one per query head).
/// Sends per rank (u - 1) / u of q, k, v and out, the same backward (heads that are sent twice: dK and dV in
/// fp32).
/// Ring (Liu et al., 2023; zigzag as in ring-flash-attention), r ranks: blocks of K and V are passed on while
/// the piece at hand is computed. Sends per rank, for ring ranks of equal length, r - 1 times 2 B L_r G D
/// elements in the dtype of q; backward r - 1 times these and as many in fp32 (fp64): the own share of dK and
/// dV stays at home. L_r is ulysses ranks * L, and H and G are those of one ulysses rank.
///
/// Memory: saved are q, K and V (one block), out and [B, H, L_r, 2] statistics of one ulysses rank's heads.
/// Of one group of heads at a time: while it runs two blocks, and in fp32 an output and that of one piece;
/// backward dQ, two blocks of dK and dV and the gradients of one piece. A piece is an interval of queries
/// times one of keys; a block mask whose blocks do not begin where these do becomes a dense bias of one
/// piece.
///
/// Throws ValueError, on all ranks alike and before any byte is sent, for arguments that do not fit.
at::Tensor sequence_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const NamedTensors& batch, const StepContext& context,
                              const SequenceAttentionOptions& options = {});

}  // namespace axial::parallel
