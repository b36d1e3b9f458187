// SPDX-License-Identifier: Apache-2.0
// What a rank holds of a logical tensor: some intervals of each dim, then a flat interval of the result.
// Asked by the parameter table, checkpoints, ZeRO and tests; nobody else computes an offset.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "axial/parallel/layout/interval.h"

namespace axial::parallel {

/// The held part: dims cut to their intervals (a fused QKV weight has three, a gated feed-forward two), then
/// elements [flat_begin, flat_end) of the contiguous result (ZeRO).
struct Holding {
  std::vector<Intervals> slices;  ///< per dim, ascending; an empty list: nothing
  int64_t flat_begin = 0;
  int64_t flat_end = 0;

  /// Everything of a tensor of this shape.
  static Holding whole(const std::vector<int64_t>& shape);
  /// Everything along all dims but `dim`, and these intervals of it; throws ValueError for no such dim.
  static Holding cut(const std::vector<int64_t>& shape, int64_t dim, const Intervals& intervals);

  /// Shape after the slices, before the flat interval.
  std::vector<int64_t> sliced_shape() const;
  bool is_whole(const std::vector<int64_t>& shape) const;
  /// Whether the flat interval leaves something of the slices out.
  bool is_flat() const;
  /// The slices alone: all of them.
  Holding without_flat() const;
  /// What of it lies in the first `rows` entries of dim 0: the beginning of what is held, in its order.
  Holding within_rows(int64_t rows) const;
  /// Shape of the held tensor: sliced_shape(), or [flat_end - flat_begin] when is_flat().
  std::vector<int64_t> held_shape() const;

  /// Elements that are neighbours both here and in the logical tensor.
  struct Run {
    int64_t global = 0;  ///< row-major index of the first in the logical tensor
    int64_t length = 0;
  };
  /// The run that starts at held element `i` (counted from flat_begin, which the end of the run respects
  /// too). Its cost depends on the numbers of dims and intervals alone: walk a holding by its runs.
  Run run_at(const std::vector<int64_t>& shape, int64_t i) const;
  /// Row-major index in the logical tensor of held element `i`.
  int64_t global_index(const std::vector<int64_t>& shape, int64_t i) const { return run_at(shape, i).global; }

  /// The held part of a logical tensor, of held_shape(); a view where one interval per dim allows it.
  at::Tensor select(const at::Tensor& logical) const;
  /// The inverse: put the held part in its place in a logical tensor, leave the rest. When is_flat(), a copy
  /// of the slices is made on the way.
  void write_into(at::Tensor& logical, const at::Tensor& held) const;

  /// Throw ValueError naming the parameter unless all of it lies inside a tensor of this shape.
  void validate(const std::string& name, const std::vector<int64_t>& shape) const;
};

}  // namespace axial::parallel
