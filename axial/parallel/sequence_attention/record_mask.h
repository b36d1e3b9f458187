// SPDX-License-Identifier: Apache-2.0
// Masks over the places of a record, wherever it lies in its row: what a model's settings say. A layer hands
// it to sequence_attention, and to cached_sequence_attention while decoding.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/sequence_attention/mask.h"
#include "axial/parallel/sequence_attention/sequence_attention.h"

namespace axial::parallel {

/// Rows of more tokens have the pairs of a mask that is no blocks as bits in memory of the host; others as a
/// bias on the device.
inline constexpr int64_t kMaskHostTokens = 65536;

/// Which earlier places of its record a place sees, for all records and heads. Thread-safe.
class RecordMask {
 public:
  /// Any function of two places of a record.
  explicit RecordMask(SeesFunction sees, int64_t host_tokens = kMaskHostTokens);
  /// Of records no longer than the table: longer ones are refused.
  explicit RecordMask(SeesTable table, int64_t host_tokens = kMaskHostTokens);

  /// Put it into the options of calls on this rank's part of rows.
  ///
  /// B rows of N places, with A of whose queries this rank attends; `batch` is of SequenceLayout::make_batch:
  /// reads "record_starts". Where every row is one record a RowMask: blocks, and unless they say it all an
  /// attended_bias [1, 1, A, N]; else one [B, 1, A, N]; fp32 (fp64 for fp64). Of rows of more than
  /// `host_tokens` places attended_bits [1 or B, A, N / 8] in its stead. Written row by row, and the last one
  /// made is kept: layers of a step share it. Throws ValueError for records that are too long and for options
  /// that have a bias.
  void add_to(SequenceAttentionOptions& options, const NamedTensors& batch, const SequenceLayout& layout,
              at::ScalarType dtype) const;

  /// Bias [B, 1, Q, K] of queries at `q_positions` [B, Q] of their sequences over cached keys at
  /// `k_positions` [K]: 0 and minus infinity. Keys after a query are left to causality.
  at::Tensor cached_bias(const at::Tensor& q_positions, const at::Tensor& k_positions,
                         at::ScalarType dtype) const;

 private:
  struct Made {
    at::Tensor record_starts;  // for which it was made; kept, so that no other tensor has its memory
    at::ScalarType dtype;
    SequenceAttentionOptions options;
  };
  void check_lengths(const at::Tensor& positions) const;
  SequenceAttentionOptions make(const at::Tensor& record_starts, const SequenceLayout& layout,
                                at::ScalarType dtype) const;
  at::Tensor row_bias(const at::Tensor& record_starts, const SequenceLayout& layout) const;
  at::Tensor row_bits(const at::Tensor& record_starts, const SequenceLayout& layout) const;

  SeesTable table_;  // of length 0: any
  int64_t host_tokens_;
  mutable std::mutex mutex_;
  mutable std::optional<Made> made_;
  mutable std::unique_ptr<RowMask> whole_rows_;
};

}  // namespace axial::parallel
