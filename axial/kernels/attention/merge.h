// SPDX-License-Identifier: Apache-2.0
// Contract of the merge of two partial results of attention over different keys:
//   m = max(m_a, m_b),  s = s_a exp(m_a - m) + s_b exp(m_b - m),
//   out = (out_a s_a exp(m_a - m) + out_b s_b exp(m_b - m)) / s
// with the largest logit m and the sum s of each row. A row that saw nothing, (-inf, 0), changes nothing.
// Milakov and Gimelshein, 2018.
#pragma once

#include <cstdint>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"

namespace axial::kernels {

/// X leading elements, I queries, H heads, D width; strides count elements.
struct PartialAttention {
  void* out = nullptr;  ///< [X, I, H, D], last dim contiguous
  int64_t leading = 0;
  int64_t row = 0;
  int64_t head = 0;
  void* statistics = nullptr;  ///< [X, H, I, 2], last dim contiguous
  int64_t statistics_leading = 0;
  int64_t statistics_head = 0;
  int64_t statistics_row = 2;
};

struct AttentionMerge {
  int64_t leading = 0;
  int64_t queries = 0;
  int64_t heads = 0;
  int64_t width = 0;
  DType dtype = DType::kF32;  ///< of all: fp32 or fp64
  PartialAttention sum;       ///< read and written
  PartialAttention piece;     ///< read
};

/// Rows are independent: equal to the bit for any ParallelFor. No workspace.
Status merge_attention(const AttentionMerge& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels
