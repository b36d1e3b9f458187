// SPDX-License-Identifier: Apache-2.0
// Coordinates and groups of a mesh: mixed-radix arithmetic over the degrees.
#include "axial/parallel/mesh/mesh.h"

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "mesh";

std::string describe(const std::vector<MeshAxis>& axes) {
  std::string text;
  for (const MeshAxis& axis : axes) {
    text += fmt::format("{}{}={}", text.empty() ? "" : " * ", axis.name, axis.degree);
  }
  return text.empty() ? "no axes" : text;
}

}  // namespace

Mesh::Mesh(std::vector<MeshAxis> axes, int64_t world_size, int64_t rank)
    : axes_(std::move(axes)), world_size_(world_size), rank_(rank) {
  int64_t product = 1;
  for (size_t i = 0; i < axes_.size(); ++i) {
    AXIAL_CHECK(!axes_[i].name.empty(), kOp, "name of axis {}; expected one, got \"\"", i);
    AXIAL_CHECK(axes_[i].degree >= 1, kOp, "degree of axis '{}'; expected at least 1, got {}", axes_[i].name,
                axes_[i].degree);
    for (size_t j = 0; j < i; ++j) {
      AXIAL_CHECK(axes_[j].name != axes_[i].name, kOp, "axis '{}' is named twice", axes_[i].name);
    }
    AXIAL_CHECK(!__builtin_mul_overflow(product, axes_[i].degree, &product), kOp,
                "degrees {}; expected a product of {}, got one beyond 64 bits", describe(axes_), world_size);
  }
  AXIAL_CHECK(product == world_size, kOp, "degrees {}; expected a product equal to the world size {}, got {}",
              describe(axes_), world_size, product);
  AXIAL_CHECK(0 <= rank && rank < world_size, kOp, "rank; expected one of [0, {}), got {}", world_size, rank);
}

Mesh Mesh::single() {
  return Mesh({{"data", 1}, {"pipe", 1}, {"ring", 1}, {"ulysses", 1}, {"tensor", 1}}, 1, 0);
}

size_t Mesh::find(std::string_view axis) const {
  std::vector<std::string> names;
  for (size_t i = 0; i < axes_.size(); ++i) {
    if (axes_[i].name == axis) return i;
    names.push_back(axes_[i].name);
  }
  fail(kOp, "unknown axis '{}'; expected one of {}{}", axis, fmt::join(names, ", "),
       did_you_mean(axis, names));
}

int64_t Mesh::stride(size_t axis) const {
  int64_t stride = 1;
  for (size_t i = axis + 1; i < axes_.size(); ++i) stride *= axes_[i].degree;
  return stride;
}

int64_t Mesh::degree(std::string_view axis) const { return axes_[find(axis)].degree; }

int64_t Mesh::group_size(const Axes& axes) const {
  std::vector<size_t> seen;
  int64_t size = 1;
  for (const std::string& name : axes) {
    const size_t axis = find(name);
    AXIAL_CHECK(std::find(seen.begin(), seen.end(), axis) == seen.end(), kOp,
                "axes of a group; axis '{}' is named twice", name);
    seen.push_back(axis);
    size *= axes_[axis].degree;
  }
  return size;
}

int64_t Mesh::coordinate(std::string_view axis, int64_t rank) const {
  AXIAL_CHECK(0 <= rank && rank < world_size_, kOp, "rank; expected one of [0, {}), got {}", world_size_,
              rank);
  const size_t i = find(axis);
  return rank / stride(i) % axes_[i].degree;
}

std::vector<int64_t> Mesh::group(const Axes& axes, int64_t rank) const {
  const int64_t size = group_size(axes);
  int64_t first = rank;
  for (const std::string& name : axes) first -= coordinate(name, rank) * stride(find(name));
  std::vector<int64_t> ranks{first};
  for (size_t axis = axes_.size(); axis-- > 0;) {
    if (std::find(axes.begin(), axes.end(), axes_[axis].name) == axes.end()) continue;
    const std::vector<int64_t> inner = ranks;
    for (int64_t c = 1; c < axes_[axis].degree; ++c) {
      for (const int64_t r : inner) ranks.push_back(r + c * stride(axis));
    }
  }
  AXIAL_DCHECK(static_cast<int64_t>(ranks.size()) == size);
  static_cast<void>(size);
  return ranks;
}

int64_t Mesh::group_rank(const Axes& axes, int64_t rank) const {
  group_size(axes);   // checks them
  int64_t place = 0;  // in the order of group(): the mesh's last axis is innermost
  for (const MeshAxis& axis : axes_) {
    if (std::find(axes.begin(), axes.end(), axis.name) == axes.end()) continue;
    place = place * axis.degree + coordinate(axis.name, rank);
  }
  return place;
}

Axes Mesh::batch_axes() const {
  Axes out;
  for (const MeshAxis& axis : axes_) {
    if (axis.name == "data" || axis.name == "ring" || axis.name == "ulysses") out.push_back(axis.name);
  }
  return out;
}

Axes Mesh::sequence_axes() const {
  Axes out = batch_axes();
  std::erase(out, "data");
  return out;
}

std::vector<std::vector<int64_t>> Mesh::groups(const Axes& axes) const {
  std::vector<std::vector<int64_t>> all;
  for (int64_t rank = 0; rank < world_size_; ++rank) {
    std::vector<int64_t> ranks = group(axes, rank);
    if (ranks.front() == rank) all.push_back(std::move(ranks));
  }
  return all;
}

}  // namespace axial::parallel
