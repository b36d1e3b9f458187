// SPDX-License-Identifier: Apache-2.0
// What a rank holds of a logical tensor: strided slices of its dims, then a flat interval of the result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace axial::parallel {

/// Equal pieces of a dim: indices begin + i * stride + [0, length) for i in [0, count).
/// A fused QKV weight or a gated feed-forward is cut with count > 1.
struct DimSlice {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t stride = 0;
  int64_t count = 1;

  int64_t size() const { return length * count; }
  friend bool operator==(const DimSlice&, const DimSlice&) = default;
};

/// The held part: dims cut by slices, then elements [flat_begin, flat_end) of the contiguous result.
struct Holding {
  std::vector<DimSlice> slices;  ///< one per dim
  int64_t flat_begin = 0;
  int64_t flat_end = 0;

  /// Everything of a tensor of this shape.
  static Holding whole(const std::vector<int64_t>& shape);
  /// Shape after the slices, before the flat interval.
  std::vector<int64_t> sliced_shape() const;
  bool is_whole(const std::vector<int64_t>& shape) const;
  /// Whether the flat interval leaves something of the slices out.
  bool is_flat() const;
  /// Shape of the held tensor: sliced_shape(), or [flat_end - flat_begin] when is_flat().
  std::vector<int64_t> held_shape() const;
  /// Row-major index in the logical tensor of held element `i` (counted from flat_begin).
  int64_t global_index(const std::vector<int64_t>& shape, int64_t i) const;
  /// Throw ValueError naming the parameter unless all of it lies inside a tensor of this shape.
  void validate(const std::string& name, const std::vector<int64_t>& shape) const;
};

}  // namespace axial::parallel
