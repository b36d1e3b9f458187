// SPDX-License-Identifier: Apache-2.0
// Contract of softmax cross-entropy over rows of logits, forward and backward. Called by ops/cross_entropy.
//
// R rows of V logits; l = log-sum-exp of the row; the loss of a row is l - logits[label]. A row whose label
// is `ignore` gives nothing. Logits are read once in each direction; nothing of size R x V is stored.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

/// The row stride counts elements; a row is contiguous. Statistics are fp32, fp64 for fp64.
struct CrossEntropyForward {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ignore = -100;
  const void* logits = nullptr;  ///< [R, V]
  int64_t stride = 0;
  const int64_t* labels = nullptr;  ///< [R]
  void* log_sum_exp = nullptr;      ///< [R], of ignored rows too
  void* log_likelihood = nullptr;   ///< [R] logits[label] - l, 0 for ignored rows; or null
  double* sum = nullptr;            ///< loss summed over rows in order, in fp64; or null
  double* weight = nullptr;         ///< rows that count; or null
};

/// grad_logits = (softmax - one_hot(label)) * scale; 0 for ignored rows.
struct CrossEntropyBackward {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ignore = -100;
  const void* logits = nullptr;  ///< [R, V]
  int64_t stride = 0;
  const int64_t* labels = nullptr;    ///< [R]
  const void* log_sum_exp = nullptr;  ///< [R] as forward wrote it
  double scale = 1;                   ///< gradient of the sum
  void* grad_logits = nullptr;        ///< [R, V] contiguous
};

std::span<const Implementation<CrossEntropyForward>> cross_entropy_forward_table();
std::span<const Implementation<CrossEntropyBackward>> cross_entropy_backward_table();

/// Invalid: a label that is neither in [0, V) nor `ignore` (names the first), V < 1. When `sum` is wanted,
/// so must be log_likelihood. No workspace.
Status cross_entropy_forward(const CrossEntropyForward& params, const ParallelFor& parallel_for);
Status cross_entropy_backward(const CrossEntropyBackward& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels
