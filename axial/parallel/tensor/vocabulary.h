// SPDX-License-Identifier: Apache-2.0
// Tables with one row per token over `tensor`: lookup, and what follows the product of a head. Rows are cut
// in even parts or replicated; the parameter's holding says which, and nobody else asks. Called by models.
// (Shoeybi et al., 2019.)
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "axial/ops/cross_entropy/cross_entropy.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/tensor/stream.h"

namespace axial::parallel {

/// A vocabulary during one call of a block.
///
/// V tokens, V' of them here; B rows, L positions, L' of them in the stream here; t ranks. Cut rows: the
/// head sees all L positions and V' tokens. Replicated rows: it sees V tokens at the L' positions of the
/// stream, and nothing but sums travels. Either way gradients of `table` are whole, or partial over `tensor`
/// exactly where Placement::stream() says so.
class Vocabulary {
 public:
  /// `table` [V, C] with its holding. Table and stream must outlive this.
  Vocabulary(const Parameter& table, const TensorStream& stream);

  /// Rows of the table at ids [B, L] int64, the same on all ranks -> stream [B, L', C].
  ///
  /// Gradients: table. Cut: one all-reduce (whole stream) or reduce-scatter (cut stream) of B * L * C
  /// elements; the backward of a cut stream all-gathers as many. Throws ValueError for an id outside [0, V).
  at::Tensor embed(const at::Tensor& ids) const;

  /// Stream [B, L', C] -> what the head's product reads: [B, L, C] for cut rows, else the stream itself.
  at::Tensor enter(const at::Tensor& stream) const;

  /// As ops::cross_entropy, over all positions and tokens: equal on all ranks.
  ///   logits [B, L, V'] or [B, L', V]   labels [B, L]
  /// Gradients: logits; first order only. Cut: all-reduces of T = B * L and 2 * T statistics forward, none
  /// backward; saves logits and one statistic per row.
  ops::LossSum cross_entropy(const at::Tensor& logits, const at::Tensor& labels) const;

  /// As ops::token_log_likelihood: [B, L] on all ranks. No gradient.
  at::Tensor token_log_likelihood(const at::Tensor& logits, const at::Tensor& labels) const;

  /// Logits of all positions and tokens, [B, L, V], on all ranks; all-gathers them.
  at::Tensor whole_logits(const at::Tensor& logits) const;

 private:
  bool is_cut() const { return rows_.size() < size_; }

  const Parameter& table_;
  const TensorStream& stream_;
  Interval rows_;
  int64_t size_;
};

/// Statistics of rows of logits whose columns are cut over `tensor`: what no rank knows alone.
struct CutRows {
  at::Tensor log_sum_exp;     ///< [T] over all V tokens, fp32 (fp64 for fp64)
  at::Tensor log_likelihood;  ///< [T] of the labels; 0 for ignored ones
};

/// Two all-reduces, of T maxima and of 2 * T sums. No gradient.
///   logits [T, V']  columns `tokens` of V;  labels [T]
/// Throws ValueError for logits of other columns.
CutRows cut_rows(const at::Tensor& logits, const at::Tensor& labels, Interval tokens, Communicator& ranks);

/// Sum over rows of log_sum_exp - logits[label], with its gradient; equal on all ranks. As cut_rows.
at::Tensor cut_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, Interval tokens,
                             Communicator& ranks);

}  // namespace axial::parallel
