// SPDX-License-Identifier: Apache-2.0
// What the implementations behind embedding.h share: the places of each id, and the cut of the work.
// For this folder only.
#pragma once

#include <algorithm>

#include "axial/kernels/embedding/embedding.h"

namespace axial::kernels::embedding_impl {

/// Places of id v in the list, ascending: order[begin[v]] .. order[begin[v + 1] - 1].
struct Places {
  const int64_t* begin;  // [V + 1]
  const int64_t* order;  // [N]
};

/// Counting sort of the list by id into the workspace.
inline Places sort_places(const EmbeddingBackward& p) {
  int64_t* begin = static_cast<int64_t*>(p.workspace);
  int64_t* order = begin + p.rows + 1;
  std::fill(begin, begin + p.rows + 1, 0);
  for (int64_t i = 0; i < p.count; ++i) ++begin[p.ids[i]];
  int64_t sum = 0;
  for (int64_t v = 0; v <= p.rows; ++v) {
    const int64_t here = begin[v];
    begin[v] = sum;
    sum += here;
  }
  for (int64_t i = 0; i < p.count; ++i) order[begin[p.ids[i]]++] = i;
  // Each begin[v] now is its end: shift back.
  for (int64_t v = p.rows; v > 0; --v) begin[v] = begin[v - 1];
  begin[0] = 0;
  return {begin, order};
}

inline constexpr int64_t kColumnBlock = 64;
inline constexpr int64_t kSlices = 16;

/// Call body(v, first column, width) for every id and block of columns. Ids are cut into slices of equal
/// cost (gradient rows plus the row written), columns into blocks: the cut depends on the ids alone.
template <class Body>
void for_each_block(const EmbeddingBackward& p, const Places& places, const ParallelFor& parallel_for,
                    const Body& body) {
  const int64_t blocks = (p.cols + kColumnBlock - 1) / kColumnBlock;
  const int64_t slices = std::min(p.rows, kSlices);
  const int64_t total = p.count + p.rows;
  // First id of slice s: the first whose cost so far, begin[v] + v, reaches s shares of the total.
  const auto first_id = [&](int64_t s) {
    const int64_t cost = total / slices * s + total % slices * s / slices;
    int64_t low = 0, high = p.rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (places.begin[middle] + middle < cost) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  parallel_for(slices * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t slice = piece / blocks, column = piece % blocks * kColumnBlock;
      const int64_t width = std::min(kColumnBlock, p.cols - column);
      const int64_t last = slice + 1 == slices ? p.rows : first_id(slice + 1);
      for (int64_t v = first_id(slice); v < last; ++v) body(v, column, width);
    }
  });
}

Status simd_backward(const EmbeddingBackward& params, const ParallelFor& parallel_for);
Status reference_backward(const EmbeddingBackward& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels::embedding_impl
