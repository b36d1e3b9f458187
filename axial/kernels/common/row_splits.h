// SPDX-License-Identifier: Apache-2.0
// Sums over rows that do not depend on the number of threads: rows are cut into pieces by the shape
// alone, each piece sums into its own part of the workspace, and the parts are added in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"

namespace axial::kernels {

/// A cut of [0, rows) into `count` pieces; piece s is [begin(s), end(s)).
struct RowSplits {
  int64_t rows = 0;
  int64_t count = 0;
  int64_t share = 0;
  int64_t begin(int64_t s) const { return std::min(rows, s * share); }
  int64_t end(int64_t s) const { return std::min(rows, (s + 1) * share); }
};

/// At least 64 rows a piece, so that adding the parts is cheap, and at most 64 pieces to share out.
inline RowSplits row_splits(int64_t rows) {
  const int64_t share = std::max<int64_t>(64, (rows + 63) / 64);
  return {rows, (rows + share - 1) / share, share};
}

/// out[c] = sum over s of parts[s * stride + c], added in order of s; zero when there are no parts.
template <class T>
void add_parts(const acc_t<T>* parts, int64_t count, int64_t stride, int64_t cols, T* out,
               const ParallelFor& parallel_for) {
  constexpr int64_t kBlock = 512;
  parallel_for((cols + kBlock - 1) / kBlock, 8, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kBlock;
      const int64_t width = std::min(kBlock, cols - first);
      acc_t<T> sum[kBlock] = {};
      for (int64_t s = 0; s < count; ++s) {
        const acc_t<T>* part = parts + s * stride + first;
        for (int64_t c = 0; c < width; ++c) sum[c] += part[c];
      }
      for (int64_t c = 0; c < width; ++c) out[first + c] = static_cast<T>(sum[c]);
    }
  });
}

/// Rows that make a piece of work worth a thread's while, about 16 thousand elements.
inline int64_t row_grain(int64_t cols) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(cols, 1)); }

}  // namespace axial::kernels
