// SPDX-License-Identifier: Apache-2.0
// Contract of row lookup and its gradient.
//
// N ids into a table of V rows and C columns. Forward copies rows. Backward sums the gradient rows of each
// id in fp32 (fp64 for fp64) in order of their place in the list, whatever the number of threads; rows of
// ids that do not occur become zero. Work is shared over ids by their counts and over columns, so that a
// small vocabulary with one frequent id uses every thread.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

/// Strides count elements between rows; columns are contiguous.
struct EmbeddingForward {
  DType dtype = DType::kF32;     ///< of weight and out, any
  int64_t rows = 0;              ///< V
  int64_t cols = 0;              ///< C
  int64_t count = 0;             ///< N
  const void* weight = nullptr;  ///< [V, C]
  int64_t weight_stride = 0;
  const int64_t* ids = nullptr;  ///< [N] in [0, V)
  void* out = nullptr;           ///< [N, C]
  int64_t out_stride = 0;
};

struct EmbeddingBackward {
  DType dtype = DType::kF32;  ///< of dout and dweight: fp64, fp32, bf16 or fp16
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t count = 0;
  const int64_t* ids = nullptr;  ///< [N]
  const void* dout = nullptr;    ///< [N, C]
  int64_t dout_stride = 0;
  void* dweight = nullptr;  ///< [V, C], overwritten
  int64_t dweight_stride = 0;
  void* workspace = nullptr;  ///< workspace_bytes(params), aligned for int64
};

/// Bytes of workspace: the places of each id, 8 (V + 1 + N).
int64_t workspace_bytes(const EmbeddingBackward& params);

/// Run the first implementation that accepts; bitwise equal for any ParallelFor. An id outside [0, V) is
/// invalid and named with its place; nothing is written then.
Status embedding_forward(const EmbeddingForward& params, const ParallelFor& parallel_for);
Status embedding_backward(const EmbeddingBackward& params, const ParallelFor& parallel_for);

/// In order of preference; the last is the reference. Forward copies bytes and has one.
std::span<const Implementation<EmbeddingBackward>> embedding_backward_table();

}  // namespace axial::kernels
