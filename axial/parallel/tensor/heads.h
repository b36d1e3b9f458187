// SPDX-License-Identifier: Apache-2.0
// Which attention heads a rank of `tensor` computes, and which rows of a fused query/key/value projection it
// therefore holds. Asked by parallelize (what to hold) and by layers (what is held). Query head h reads
// key/value head h / (query / key_value) (Ainslie et al., 2023).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "axial/parallel/layout/interval.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/tensor/stream.h"

namespace axial::parallel {

/// Heads of an attention over all ranks. The fused projection has rows of all query heads, then all key
/// heads, then all value heads, `width` rows each.
struct HeadCounts {
  int64_t query = 0;
  int64_t key_value = 0;
  int64_t width = 0;
};

/// Heads of one rank.
///
/// Key/value heads that `degree` divides are cut like the query heads. Otherwise every rank holds all of
/// them, so that any number of ranks up to that of query heads works.
struct RankHeads {
  Interval query;              ///< query heads computed here
  Interval key_value;          ///< key/value heads held here
  std::vector<int64_t> reads;  ///< key/value head of each one that attention here sees

  int64_t num_query() const { return query.size(); }
  /// Key/value heads that attention here sees: those that its query heads read; one per query head where
  /// they are not read equally often.
  int64_t num_key_value() const { return static_cast<int64_t>(reads.size()); }

  /// Query heads in even parts, the first ranks one more. Throws ValueError for more ranks than query heads.
  static RankHeads of_rank(const HeadCounts& counts, int64_t degree, int64_t rank);
  /// Of the rank that holds these rows of a fused projection.
  static RankHeads held_by(const Parameter& projection, const HeadCounts& counts);

  /// Rows of the fused projection, what of_rank holds.
  Intervals projection_rows(const HeadCounts& counts) const;
  /// Columns of the output projection.
  Interval output_columns(const HeadCounts& counts) const;
  /// Whether key/value rows are on all ranks.
  bool replicates_key_value(const HeadCounts& counts) const;
};

/// Rows that this rank multiplies with: the held ones of a fused weight [rows, C] or bias [rows], with the
/// read key and value heads in place of all where these are replicated.
///
/// Gradients: fused. Where key/value rows are replicated their gradient is all-reduced here
/// (2 * key_value * width * C elements over `tensor`), so it is whole and equal on all ranks; else no copy is
/// made and nothing travels.
at::Tensor projected_rows(const at::Tensor& fused, const RankHeads& heads, const HeadCounts& counts,
                          const TensorStream& stream);

}  // namespace axial::parallel
