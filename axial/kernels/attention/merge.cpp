// SPDX-License-Identifier: Apache-2.0
// Plain loops over rows: one pass over memory, which bounds it.
#include "axial/kernels/attention/merge.h"

#include <algorithm>
#include <cmath>

namespace axial::kernels {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

template <class T>
struct Row {
  T* out;
  T* statistics;
};

template <class T>
Row<T> row_of(const PartialAttention& p, int64_t x, int64_t head, int64_t i) {
  return {static_cast<T*>(p.out) + x * p.leading + i * p.row + head * p.head,
          static_cast<T*>(p.statistics) + x * p.statistics_leading + head * p.statistics_head +
              i * p.statistics_row};
}

template <class T>
void merge_row(const Row<T>& sum, const Row<T>& piece, int64_t width) {
  if (piece.statistics[1] == 0) return;
  if (sum.statistics[1] == 0) {
    std::copy(piece.out, piece.out + width, sum.out);
    std::copy(piece.statistics, piece.statistics + 2, sum.statistics);
    return;
  }
  const T largest = std::max(sum.statistics[0], piece.statistics[0]);
  const T kept = sum.statistics[1] * std::exp(sum.statistics[0] - largest);
  const T added = piece.statistics[1] * std::exp(piece.statistics[0] - largest);
  const T all = kept + added;
  const T keep = kept / all, add = added / all;
  for (int64_t c = 0; c < width; ++c) sum.out[c] = sum.out[c] * keep + piece.out[c] * add;
  sum.statistics[0] = largest;
  sum.statistics[1] = all;
}

template <class T>
void merge(const AttentionMerge& p, const ParallelFor& parallel_for) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, p.heads * p.width));
  parallel_for(p.leading * p.queries, grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t x = at / p.queries, i = at % p.queries;
      for (int64_t h = 0; h < p.heads; ++h) {
        merge_row(row_of<T>(p.sum, x, h, i), row_of<T>(p.piece, x, h, i), p.width);
      }
    }
  });
}

}  // namespace

Status merge_attention(const AttentionMerge& params, const ParallelFor& parallel_for) {
  if (params.dtype == DType::kF32) {
    merge<float>(params, parallel_for);
  } else if (params.dtype == DType::kF64) {
    merge<double>(params, parallel_for);
  } else {
    return Status::unsupported(
        fmt::format("partial results; expected float32 or float64, got {}", name_of(params.dtype)));
  }
  return {};
}

}  // namespace axial::kernels
