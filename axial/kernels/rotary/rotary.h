// SPDX-License-Identifier: Apache-2.0
// Contract of the rotary position embedding (Su et al., 2021) and its inverse, which is its gradient.
//
// Pair i of a head is (x[i], x[i + P]), i < P, 2 P <= D (the convention of GPT-NeoX and Llama):
//   (y[i], y[i + P]) = (x[i] cos a - x[i + P] sin a, x[i + P] cos a + x[i] sin a),  a = position inv_freq[i]
// and the inverse turns by -a; entries from 2 P on are copied. The angle, its cosine and its sine are
// computed in fp64, once per token and pair for all heads; the rotation in fp32 (fp64 for fp64).
// No workspace. Memory-bound.
#pragma once

#include <cstdint>
#include <span>

#include "axial/core/check/status.h"
#include "axial/core/dtype/dtype.h"
#include "axial/core/parallel_for/parallel_for.h"
#include "axial/kernels/common/implementation.h"

namespace axial::kernels {

/// T tokens, H heads, D head width, P pairs. Strides count elements; the entries of a head are contiguous.
/// x and y may be views into one buffer (queries or keys in a fused projection). y may be x itself, with
/// equal strides; any other overlap is not allowed.
struct Rotary {
  DType dtype = DType::kF32;  ///< fp64, fp32, bf16 or fp16, of x and y
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t pairs = 0;
  const void* x = nullptr;  ///< [T, H, D]
  int64_t x_token_stride = 0;
  int64_t x_head_stride = 0;
  void* y = nullptr;  ///< [T, H, D]
  int64_t y_token_stride = 0;
  int64_t y_head_stride = 0;
  const int64_t* positions = nullptr;  ///< [T]
  const double* inv_freq = nullptr;    ///< [P]
  bool inverse = false;
};

/// Run the first implementation that accepts; bitwise equal for any ParallelFor.
Status rotary(const Rotary& params, const ParallelFor& parallel_for);

/// In order of preference; the last is the reference.
std::span<const Implementation<Rotary>> rotary_table();

}  // namespace axial::kernels
