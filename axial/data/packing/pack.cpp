// SPDX-License-Identifier: Apache-2.0
// Windows and best-fit decreasing of pack.h.
#include "axial/data/packing/pack.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "axial/core/check/check.h"

namespace axial::data {
namespace {

// The row of each window, rows numbered as they are opened; returns the number of rows.
int64_t assign_rows(const std::vector<Window>& windows, const std::vector<int64_t>& order, int64_t row_length,
                    std::vector<int64_t>& row_of) {
  std::map<int64_t, std::vector<int64_t>> open;  // free positions -> rows
  int64_t num_rows = 0;
  for (const int64_t i : order) {
    const int64_t length = windows[static_cast<size_t>(i)].length;
    int64_t row = num_rows;
    int64_t room = row_length;
    if (const auto best = open.lower_bound(length); best != open.end()) {
      room = best->first;
      row = best->second.back();
      best->second.pop_back();
      if (best->second.empty()) open.erase(best);
    } else {
      ++num_rows;
    }
    row_of[static_cast<size_t>(i)] = row;
    if (room - length > 0) open[room - length].push_back(row);
  }
  return num_rows;
}

// Longest windows first; equal lengths in an order of the key.
std::vector<int64_t> decreasing(const std::vector<Window>& windows, RngKey key) {
  const uint64_t n = windows.size();
  const RandomPermutation shuffle(key, n);
  std::vector<int64_t> order(n);
  for (uint64_t i = 0; i < n; ++i) order[i] = static_cast<int64_t>(shuffle(i));
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return windows[static_cast<size_t>(a)].length > windows[static_cast<size_t>(b)].length;
  });
  return order;
}

}  // namespace

std::span<const Window> PackedRows::row(int64_t index) const {
  AXIAL_CHECK(index >= 0 && index < num_rows(), "packing", "row; expected 0 to {}, got {}", num_rows() - 1,
              index);
  const auto begin = static_cast<size_t>(row_begins[static_cast<size_t>(index)]);
  const auto end = static_cast<size_t>(row_begins[static_cast<size_t>(index) + 1]);
  return {windows.data() + begin, end - begin};
}

double PackedRows::fill() const {
  const int64_t places = num_rows() * row_length;
  return places == 0 ? 0 : static_cast<double>(num_tokens) / static_cast<double>(places);
}

std::vector<Window> cut_windows(int64_t record, int64_t length, int64_t row_length, int64_t stride) {
  std::vector<Window> out;
  const int64_t labels = length - 1;
  int64_t counted = 0;
  for (int64_t begin = 0; counted < labels; begin += stride) {
    const int64_t end = std::min(begin + row_length, length);
    out.push_back({record, begin, static_cast<int32_t>(end - begin), static_cast<int32_t>(counted - begin)});
    counted = std::min(end, labels);
  }
  return out;
}

PackedRows pack_records(std::span<const int64_t> lengths, int64_t row_length, int64_t stride, RngKey key) {
  AXIAL_CHECK(row_length >= 2 && row_length <= std::numeric_limits<int32_t>::max(), "packing",
              "row length; expected 2 to 2^31 - 1, got {}", row_length);
  AXIAL_CHECK(stride >= 1 && stride <= row_length, "packing",
              "stride; expected 1 to the row length {}, got {}", row_length, stride);
  PackedRows out;
  out.row_length = row_length;
  std::vector<Window> windows;
  for (size_t r = 0; r < lengths.size(); ++r) {
    const std::vector<Window> cut = cut_windows(static_cast<int64_t>(r), lengths[r], row_length, stride);
    windows.insert(windows.end(), cut.begin(), cut.end());
    out.left_out += cut.empty();
    out.cut_records += cut.size() > 1;
    out.num_labels += std::max<int64_t>(0, lengths[r] - 1);
  }
  std::vector<int64_t> row_of(windows.size());
  const int64_t num_rows = assign_rows(windows, decreasing(windows, key), row_length, row_of);

  // Windows are in record order, so the first window met of a row decides the row's number.
  std::vector<int64_t> number(static_cast<size_t>(num_rows), -1);
  std::vector<int64_t> sizes;
  for (int64_t& row : row_of) {
    int64_t& named = number[static_cast<size_t>(row)];
    if (named < 0) {
      named = static_cast<int64_t>(sizes.size());
      sizes.push_back(0);
    }
    row = named;
    ++sizes[static_cast<size_t>(row)];
  }
  out.row_begins.resize(sizes.size() + 1);
  std::partial_sum(sizes.begin(), sizes.end(), out.row_begins.begin() + 1);
  std::vector<int64_t> next(out.row_begins.begin(), out.row_begins.end() - 1);
  out.windows.resize(windows.size());
  for (size_t i = 0; i < windows.size(); ++i) {
    out.windows[static_cast<size_t>(next[static_cast<size_t>(row_of[i])]++)] = windows[i];
    out.num_tokens += windows[i].length;
  }
  return out;
}

}  // namespace axial::data
