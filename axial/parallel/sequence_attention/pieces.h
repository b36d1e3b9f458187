// SPDX-License-Identifier: Apache-2.0
// Which queries of a rank meet which keys of another, in row coordinates: intervals of both, and for each
// query the interval of keys that it sees. The only place of sequence_attention that knows of records,
// windows and masks; ring.cpp and sequence_attention.cpp compute what it says.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "axial/ops/attention/attention.h"
#include "axial/ops/attention/pairs.h"
#include "axial/parallel/layout/dim_layout.h"

namespace axial::parallel::detail {

/// What queries see, for this rank's queries and heads.
struct Sight {
  DimLayout ring = DimLayout::whole(0);               ///< who holds which keys
  int64_t rank = 0;                                   ///< whose queries
  at::Tensor record_starts;                           ///< [B, queries] int64 on the host, or Meta
  std::optional<at::Tensor> alibi_slopes;             ///< [H]
  int64_t window = 0;                                 ///< 0: all
  std::optional<at::Tensor> mask_rows, mask_columns;  ///< over the row
  int64_t query_block = 0, key_block = 0;
  /// Of SequenceAttentionOptions; pieces then are of so many queries.
  std::optional<at::Tensor> attended_bits = std::nullopt;
  int64_t attended_queries = 0;
};

/// Queries times keys, each contiguous in the row and in the local order of who holds them.
struct Piece {
  Interval queries, keys;  ///< places in the row
  int64_t query_at = 0;    ///< first of them in the local order
  int64_t key_at = 0;
  ops::AttentionPattern pattern;  ///< of the piece's queries and keys, counted from 0
  /// What queries see of a row of one record. The square is that over the whole row, said once: by the piece
  /// in which they see themselves.
  ops::KnownPairs pairs;
  ops::OptionalTensor hidden;  ///< [queries, keys] 0 or minus infinity; where blocks do not align
};

/// The pieces of this rank's queries and the keys that `key_rank` holds, without those where no query sees a
/// key: by order and window alone where record_starts is on Meta. `q`: whose dtype and device masks take.
std::vector<Piece> pieces_of(const Sight& sight, int64_t key_rank, const at::Tensor& q);

}  // namespace axial::parallel::detail
