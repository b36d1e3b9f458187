// SPDX-License-Identifier: Apache-2.0
// Index arithmetic of Holding: local element -> position in the sliced tensor -> position in the logical one.
#include "axial/parallel/layout/holding.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "holding";

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

// Whether a dim of this size is held as a whole; no list of intervals is made for the answer.
bool covers(const Intervals& intervals, int64_t size) {
  int64_t next = 0;
  for (const Interval& interval : intervals) {
    if (interval.begin != next) return false;
    next = interval.end;
  }
  return next == size;
}

// Global index of a place in the held part of a dim, and how many neighbours follow, itself included.
Holding::Run place_in(const Intervals& intervals, int64_t local) {
  for (const Interval& interval : intervals) {
    if (local < interval.size()) return {interval.begin + local, interval.size() - local};
    local -= interval.size();
  }
  fail(kOp, "place in a dim; expected one that is held, got {} behind its end", local);
}

at::Tensor cut_dim(const at::Tensor& x, int64_t dim, const Intervals& intervals) {
  if (covers(intervals, x.size(dim))) return x;
  if (intervals.empty()) return x.narrow(dim, 0, 0);
  std::vector<at::Tensor> pieces;
  for (const Interval& interval : intervals) {
    pieces.push_back(x.narrow(dim, interval.begin, interval.size()));
  }
  return pieces.size() == 1 ? pieces[0] : at::cat(pieces, dim);
}

// Copy `sliced` into its places, dim by dim; each combination of intervals is one block.
void put_slices(const at::Tensor& logical, const at::Tensor& sliced, const std::vector<Intervals>& slices,
                size_t dim) {
  if (dim == slices.size()) {
    logical.copy_(sliced);
    return;
  }
  const auto d = static_cast<int64_t>(dim);
  int64_t local = 0;
  for (const Interval& interval : slices[dim]) {
    put_slices(logical.narrow(d, interval.begin, interval.size()), sliced.narrow(d, local, interval.size()),
               slices, dim + 1);
    local += interval.size();
  }
}

}  // namespace

Holding Holding::whole(const std::vector<int64_t>& shape) {
  Holding holding;
  for (const int64_t size : shape) holding.slices.push_back({{0, size}});
  holding.flat_end = product(shape);
  return holding;
}

Holding Holding::cut(const std::vector<int64_t>& shape, int64_t dim, const Intervals& intervals) {
  AXIAL_CHECK(dim >= 0 && dim < static_cast<int64_t>(shape.size()), kOp,
              "dim to cut; expected one of a tensor of {} dims, got {}", shape.size(), dim);
  Holding holding = whole(shape);
  holding.slices[static_cast<size_t>(dim)] = normalised(intervals);
  holding.flat_end = product(holding.sliced_shape());
  return holding;
}

std::vector<int64_t> Holding::sliced_shape() const {
  std::vector<int64_t> shape;
  for (const Intervals& intervals : slices) shape.push_back(total_size(intervals));
  return shape;
}

bool Holding::is_whole(const std::vector<int64_t>& shape) const {
  if (slices.size() != shape.size() || flat_begin != 0 || flat_end != product(shape)) return false;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (!covers(slices[d], shape[d])) return false;
  }
  return true;
}

bool Holding::is_flat() const { return flat_begin != 0 || flat_end != product(sliced_shape()); }

Holding Holding::without_flat() const {
  Holding out = *this;
  out.flat_begin = 0;
  out.flat_end = product(sliced_shape());
  return out;
}

Holding Holding::within_rows(int64_t rows) const {
  Holding out = *this;
  if (slices.empty()) return out;
  out.slices[0] = intersection(slices[0], {0, rows});
  const int64_t size = product(out.sliced_shape());
  out.flat_begin = std::min(flat_begin, size);
  out.flat_end = std::min(flat_end, size);
  return out;
}

std::vector<int64_t> Holding::held_shape() const {
  if (is_flat()) return {flat_end - flat_begin};
  return sliced_shape();
}

Holding::Run Holding::run_at(const std::vector<int64_t>& shape, int64_t i) const {
  // Dims behind the last one that is cut lie together: they only make its entries longer.
  size_t last = shape.size();
  int64_t entry = 1;
  while (last > 0 && covers(slices[last - 1], shape[last - 1])) entry *= shape[--last];
  int64_t rest = flat_begin + i;
  if (last == 0) return {rest, flat_end - rest};
  const int64_t inside = rest % entry;
  rest /= entry;
  Run run;
  int64_t stride = entry;
  for (size_t d = last; d-- > 0;) {
    const int64_t size = total_size(slices[d]);
    const Run place = place_in(slices[d], rest % size);
    rest /= size;
    if (d + 1 == last) run.length = place.length * entry - inside;
    run.global += stride * place.global;
    stride *= shape[d];
  }
  run.global += inside;
  run.length = std::min(run.length, flat_end - flat_begin - i);
  return run;
}

at::Tensor Holding::select(const at::Tensor& logical) const {
  AXIAL_CHECK(logical.dim() == static_cast<int64_t>(slices.size()), kOp,
              "logical tensor; expected {} dims, got {}", slices.size(), logical.dim());
  at::Tensor part = logical;
  for (size_t d = 0; d < slices.size(); ++d) part = cut_dim(part, static_cast<int64_t>(d), slices[d]);
  return is_flat() ? part.contiguous().view({-1}).slice(0, flat_begin, flat_end) : part;
}

void Holding::write_into(at::Tensor& logical, const at::Tensor& held) const {
  const std::vector<int64_t> shape = held_shape();
  AXIAL_CHECK(logical.dim() == static_cast<int64_t>(slices.size()) && held.sizes() == shape, kOp,
              "logical tensor and held part; expected {} dims and [{}], got {} and [{}]", slices.size(),
              fmt::join(shape, ", "), logical.dim(), fmt::join(held.sizes(), ", "));
  if (!is_flat()) return put_slices(logical, held, slices, 0);
  Holding around = *this;
  around.flat_begin = 0;
  around.flat_end = product(sliced_shape());
  const at::Tensor sliced = around.select(logical).clone(at::MemoryFormat::Contiguous);
  sliced.view({-1}).slice(0, flat_begin, flat_end).copy_(held);
  put_slices(logical, sliced, slices, 0);
}

void Holding::validate(const std::string& name, const std::vector<int64_t>& shape) const {
  AXIAL_CHECK(slices.size() == shape.size(), kOp, "parameter '{}'; expected {} dim slices, got {}", name,
              shape.size(), slices.size());
  for (size_t d = 0; d < shape.size(); ++d) {
    int64_t last = 0;
    for (const Interval& interval : slices[d]) {
      AXIAL_CHECK(last <= interval.begin && interval.begin <= interval.end && interval.end <= shape[d], kOp,
                  "parameter '{}' dim {}; expected ascending intervals inside [0, {}), got [{}, {}) after {}",
                  name, d, shape[d], interval.begin, interval.end, last);
      last = interval.end;
    }
  }
  AXIAL_CHECK(0 <= flat_begin && flat_begin <= flat_end && flat_end <= product(sliced_shape()), kOp,
              "parameter '{}'; expected a flat interval inside [0, {}), got [{}, {})", name,
              product(sliced_shape()), flat_begin, flat_end);
}

}  // namespace axial::parallel
