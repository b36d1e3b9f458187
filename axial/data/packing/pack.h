// SPDX-License-Identifier: Apache-2.0
// Records -> windows of at most a row's length -> rows filled by best fit. PackedSource reads the result.
// No torch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "axial/core/rng/rng.h"

namespace axial::data {

/// Tokens [begin, begin + length) of a record. Labels of its first `ignored` positions are counted by the
/// window before it, which it overlaps.
struct Window {
  int64_t record = 0;  ///< index into the lengths that were packed
  int64_t begin = 0;
  int32_t length = 0;
  int32_t ignored = 0;
  friend bool operator==(const Window&, const Window&) = default;
};

/// Windows row by row.
struct PackedRows {
  std::vector<Window> windows;
  std::vector<int64_t> row_begins{0};  ///< [rows + 1] into windows
  int64_t row_length = 0;
  int64_t num_tokens = 0;   ///< in all rows, tokens of overlaps each time
  int64_t num_labels = 0;   ///< labels that count, each once
  int64_t cut_records = 0;  ///< records of more than one window
  int64_t left_out = 0;     ///< records of a single token: nothing to predict

  int64_t num_rows() const { return static_cast<int64_t>(row_begins.size()) - 1; }
  std::span<const Window> row(int64_t index) const;
  /// Share of positions that hold tokens.
  double fill() const;
};

/// Cut a record of `length` tokens into windows of at most `row_length` that start every `stride` tokens.
///
/// Token t + 1 is the label of position t, also across the end of a window, so the windows of a record count
/// exactly length - 1 labels: a window counts the positions that no window before it holds. Windows end as
/// soon as every label is counted; a record of one token has none.
std::vector<Window> cut_windows(int64_t record, int64_t length, int64_t row_length, int64_t stride);

/// Pack records into rows by best-fit decreasing; windows of equal length are taken in an order drawn from
/// `key`. Rows are numbered by their first record. Pure function of its arguments. Cost O(n log n) for n
/// windows, 24 bytes each.
/// Throws ValueError: row_length below 2, stride outside 1 to row_length.
PackedRows pack_records(std::span<const int64_t> lengths, int64_t row_length, int64_t stride, RngKey key);

}  // namespace axial::data
