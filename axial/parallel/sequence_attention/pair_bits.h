// SPDX-License-Identifier: Apache-2.0
// Pairs of queries and keys that a mask hides, one bit each, in memory of the host: of rows that are too long
// for a bias of all pairs. Made by mask.cpp and record_mask.cpp; pieces of attention write out what they
// need.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "axial/parallel/layout/interval.h"

namespace axial::parallel {

/// Bits of B rows, A queries and N keys: uint8 [B, A, ceil(N / 8)], nothing hidden. On the host, or Meta.
at::Tensor make_pair_bits(int64_t rows, int64_t queries, int64_t keys, at::Device device);

/// Hide a key from the query whose bits begin here.
inline void hide_key(uint8_t* of_query, int64_t key) {
  of_query[key / 8] = static_cast<uint8_t>(of_query[key / 8] | 1U << (key % 8));
}

/// These queries and keys as a bias [B, 1, queries, keys] of 0 and minus infinity on the device of `q`, fp32
/// (fp64 for fp64): all that is ever written out.
at::Tensor bias_of_bits(const at::Tensor& bits, const Interval& queries, const Interval& keys,
                        const at::Tensor& q);

/// Queries of rows of N keys that are written out together: a multiple of 64, of about 64 MiB of fp32.
int64_t queries_at_a_time(int64_t keys);

}  // namespace axial::parallel
