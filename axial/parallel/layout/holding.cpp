// SPDX-License-Identifier: Apache-2.0
// Index arithmetic of Holding: local element -> position in the sliced tensor -> position in the logical one.
#include "axial/parallel/layout/holding.h"

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

}  // namespace

Holding Holding::whole(const std::vector<int64_t>& shape) {
  Holding holding;
  for (const int64_t size : shape) holding.slices.push_back({0, size, size, 1});
  holding.flat_end = product(shape);
  return holding;
}

std::vector<int64_t> Holding::sliced_shape() const {
  std::vector<int64_t> shape;
  for (const DimSlice& slice : slices) shape.push_back(slice.size());
  return shape;
}

bool Holding::is_whole(const std::vector<int64_t>& shape) const {
  if (slices.size() != shape.size() || flat_begin != 0 || flat_end != product(shape)) return false;
  for (size_t d = 0; d < shape.size(); ++d) {
    const DimSlice& slice = slices[d];
    if (slice.begin != 0 || slice.size() != shape[d]) return false;
    if (slice.count > 1 && slice.stride != slice.length) return false;
  }
  return true;
}

bool Holding::is_flat() const { return flat_begin != 0 || flat_end != product(sliced_shape()); }

std::vector<int64_t> Holding::held_shape() const {
  if (is_flat()) return {flat_end - flat_begin};
  return sliced_shape();
}

int64_t Holding::global_index(const std::vector<int64_t>& shape, int64_t i) const {
  int64_t rest = flat_begin + i;
  int64_t index = 0;
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    const DimSlice& slice = slices[d];
    const int64_t local = rest % slice.size();
    rest /= slice.size();
    index += stride * (slice.begin + local / slice.length * slice.stride + local % slice.length);
    stride *= shape[d];
  }
  return index;
}

void Holding::validate(const std::string& name, const std::vector<int64_t>& shape) const {
  AXIAL_CHECK(slices.size() == shape.size(), "holding", "parameter '{}'; expected {} dim slices, got {}",
              name, shape.size(), slices.size());
  for (size_t d = 0; d < shape.size(); ++d) {
    const DimSlice& s = slices[d];
    const bool counts = s.begin >= 0 && s.length >= 0 && s.count >= 1;
    const bool apart = s.count <= 1 || s.stride >= s.length;
    AXIAL_CHECK(
        counts && apart && s.begin + (s.count - 1) * s.stride + s.length <= shape[d], "holding",
        "parameter '{}' dim {}; expected a slice inside [0, {}), got begin {} length {} stride {} count {}",
        name, d, shape[d], s.begin, s.length, s.stride, s.count);
  }
  AXIAL_CHECK(0 <= flat_begin && flat_begin <= flat_end && flat_end <= product(sliced_shape()), "holding",
              "parameter '{}'; expected a flat interval inside [0, {}), got [{}, {})", name,
              product(sliced_shape()), flat_begin, flat_end);
}

}  // namespace axial::parallel
