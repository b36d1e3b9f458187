// SPDX-License-Identifier: Apache-2.0
// Masks of a user's own over the places of a row: as blocks, which attention skips, and, where a block is
// seen in part, as a dense bias of the queries that this rank attends with. For layers that call
// sequence_attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/sequence_attention/sequence_attention.h"

namespace axial::parallel {

/// Whether the query at one place of the row sees the key at another, not later one. Called from several
/// threads; the same answer for the same places.
using SeesFunction = std::function<bool(int64_t query, int64_t key)>;

/// Pairs of places that a file or a table lists: a function that is good for places below `length`.
struct SeesTable {
  int64_t length = 0;
  SeesFunction sees;
};

/// Of a bool or uint8 tensor [N, N] on the host: queries, keys.
SeesTable sees_of(const at::Tensor& tensor);
/// Of a NumPy file, bool or uint8 [N, N] in C order. Throws IoError; ValueError naming the file for anything
/// else in it.
SeesTable read_sees(const std::filesystem::path& file);
/// Keys at most `window` back (Beltagy et al., 2020); those at the places `global` see and are seen by all.
SeesFunction sees_window_and_global(int64_t window, const std::vector<int64_t>& global);

/// A mask over rows of N places, for all rows and heads, besides causality and the borders of records.
class RowMask {
 public:
  /// Of any function: N^2 / 2 calls, once.
  RowMask(int64_t length, SeesFunction sees, int64_t block = 64);
  explicit RowMask(const at::Tensor& sees, int64_t block = 64);
  static RowMask from_npy(const std::filesystem::path& file, int64_t block = 64);
  /// sees_window_and_global(); throws ValueError for a global place outside of the row.
  static RowMask window_and_global(int64_t length, int64_t window, const std::vector<int64_t>& global,
                                   int64_t block = 64);

  int64_t length() const { return length_; }
  /// Whether blocks alone say it: no bias is needed.
  bool is_blocks() const { return is_blocks_; }

  /// Put it into the options of calls with queries of `dtype` on this rank's rows: the block mask, and unless
  /// is_blocks() an attended_bias [1, 1, A, N] of 0 and minus infinity, fp32 (fp64 for fp64), or `in_bits`
  /// attended_bits: keep the options for all layers. Throws ValueError for rows of another length and for
  /// options that have a bias already.
  void add_to(SequenceAttentionOptions& options, const SequenceLayout& layout, at::ScalarType dtype,
              bool in_bits = false) const;

 private:
  RowMask(const SeesTable& table, int64_t block);
  void find_blocks();

  int64_t length_ = 0;
  int64_t block_ = 64;
  SeesFunction sees_;
  bool is_blocks_ = true;
  at::Tensor rows_, columns_;  // blocks in which somebody sees something, compressed sparse rows
};

}  // namespace axial::parallel
