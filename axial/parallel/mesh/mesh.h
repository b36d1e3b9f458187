// SPDX-License-Identifier: Apache-2.0
// The ranks of a run as a grid of named axes. A value: it computes coordinates and groups of any mesh and
// talks to nobody; communicators are made from it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace axial::parallel {

/// A subset of the axes of a mesh, by name. The empty set is a group of one rank.
using Axes = std::vector<std::string>;

/// One axis: its name is data, its degree the number of ranks along it. Degree 1 is a no-op.
struct MeshAxis {
  std::string name;
  int64_t degree = 1;

  friend bool operator==(const MeshAxis&, const MeshAxis&) = default;
};

/// A grid of ranks in row-major order: the last axis varies fastest, so its ranks are neighbours.
class Mesh {
 public:
  /// Throws ValueError unless names are distinct, degrees positive, their product is world_size and
  /// rank is one of its ranks.
  Mesh(std::vector<MeshAxis> axes, int64_t world_size, int64_t rank);
  /// One rank; the axes of the house (data, pipe, ring, ulysses, tensor) at degree 1.
  static Mesh single();

  const std::vector<MeshAxis>& axes() const { return axes_; }
  int64_t world_size() const { return world_size_; }
  int64_t rank() const { return rank_; }

  /// Ranks along an axis; throws ValueError with the nearest name for an unknown one.
  int64_t degree(std::string_view axis) const;
  /// Ranks in a group along several axes.
  int64_t group_size(const Axes& axes) const;
  /// Coordinate along an axis, of this rank or any.
  int64_t coordinate(std::string_view axis) const { return coordinate(axis, rank_); }
  int64_t coordinate(std::string_view axis, int64_t rank) const;
  /// Ranks that differ from `rank` along these axes only, `rank` included, ascending in mesh order.
  std::vector<int64_t> group(const Axes& axes, int64_t rank) const;
  /// Place of `rank` in its group.
  int64_t group_rank(const Axes& axes, int64_t rank) const;
  /// The axes that split a batch, of data, ring and ulysses those that this mesh has: loss sums and gradients
  /// of parameters are partial over them.
  Axes batch_axes() const;
  /// Of these, those that split a row: ring and ulysses.
  Axes sequence_axes() const;
  /// All groups along these axes: they part the ranks.
  std::vector<std::vector<int64_t>> groups(const Axes& axes) const;

 private:
  size_t find(std::string_view axis) const;
  int64_t stride(size_t axis) const;

  std::vector<MeshAxis> axes_;
  int64_t world_size_ = 1;
  int64_t rank_ = 0;
};

}  // namespace axial::parallel
