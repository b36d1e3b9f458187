// SPDX-License-Identifier: Apache-2.0
// Which heads add to one element of a bias's gradient: its own dims, and those that are summed. Made on the
// host by launch.cu, read by backward_bias.h and sums.h.
#pragma once

#include "axial/kernels/attention/plan.h"

namespace axial::kernels::attention::cuda {

/// Leading dims and, as number kMaxLeading, the query head. Dims of size 1 are left out.
struct Cut {
  int num_own = 0, num_summed = 0;
  int own_dims[kMaxDims] = {}, summed_dims[kMaxDims] = {};
  int64_t own = 1, summed = 1;  ///< products
};

/// One head of one leading element.
struct HeadPlace {
  Place place;
  int64_t head = 0;
};

constexpr int64_t size_of_cut_dim(const AttentionSizes& s, int dim) {
  return dim == kMaxLeading ? s.heads : s.leading[dim];
}

inline Cut cut_of(const AttentionBias& gradient, const AttentionSizes& s) {
  Cut cut;
  const auto add = [&](int dim, int64_t stride) {
    const int64_t size = size_of_cut_dim(s, dim);
    if (size == 1) return;
    (stride != 0 ? cut.own_dims[cut.num_own++] : cut.summed_dims[cut.num_summed++]) = dim;
    (stride != 0 ? cut.own : cut.summed) *= size;
  };
  for (int i = 0; i < s.num_leading; ++i) add(i, gradient.leading[i]);
  add(kMaxLeading, gradient.head);
  return cut;
}

/// Head number `summed` of those that add to own element `own`.
constexpr HeadPlace head_at(const Cut& cut, const AttentionSizes& s, int64_t own, int64_t summed) {
  HeadPlace out;
  for (int part = 0; part < 2; ++part) {
    int64_t index = part == 0 ? own : summed;
    const int count = part == 0 ? cut.num_own : cut.num_summed;
    const int* dims = part == 0 ? cut.own_dims : cut.summed_dims;
    for (int i = count - 1; i >= 0; --i) {
      int64_t size = size_of_cut_dim(s, dims[i]);
      if (size == 0) size = 1;  // nothing is summed, and the sum is written all the same
      if (dims[i] == kMaxLeading) {
        out.head = index % size;
      } else {
        out.place.leading[dims[i]] = index % size;
      }
      index /= size;
    }
  }
  return out;
}

/// Its number over leading elements and heads.
constexpr int64_t row_of(const HeadPlace& at, const AttentionSizes& s) {
  int64_t x = 0;
  for (int i = 0; i < s.num_leading; ++i) x = x * s.leading[i] + at.place.leading[i];
  return x * s.heads + at.head;
}

/// Where element (query, key) of the gradient of `at` lies.
constexpr int64_t offset_of(const AttentionBias& b, const AttentionSizes& s, const HeadPlace& at,
                            int64_t query, int64_t key) {
  return leading_offset(b.leading, at.place, s.num_leading) + at.head * b.head + query * b.query +
         key * b.key;
}

}  // namespace axial::kernels::attention::cuda
