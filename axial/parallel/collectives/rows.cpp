// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/collectives/rows.h"

#include <ATen/ATen.h>

#include "axial/core/check/check.h"

namespace axial::parallel {

Sizes sizes_of(const DimLayout& layout) {
  Sizes sizes;
  for (int64_t r = 0; r < layout.num_ranks(); ++r) sizes.push_back(layout.local_size(r));
  return sizes;
}

at::Tensor gathered_places(const DimLayout& layout) {
  at::Tensor places = at::empty({layout.size()}, at::kLong);
  int64_t at = 0;
  for (int64_t r = 0; r < layout.num_ranks(); ++r) {
    for (const Interval& held : layout.owned(r)) {
      for (int64_t i = held.begin; i < held.end; ++i) places.mutable_data_ptr<int64_t>()[i] = at++;
    }
  }
  return places;
}

at::Tensor whole_rows(const at::Tensor& piece, int64_t dim, const SequenceLayout& layout,
                      Communicator& ranks) {
  AXIAL_CHECK(piece.size(dim) == layout.local_length(), "rows", "dim {}; expected {} positions, got {}", dim,
              layout.local_length(), piece.size(dim));
  const at::Tensor all = ranks.all_gather(piece, dim, ranks.mesh().sequence_axes(), sizes_of(layout.dim()));
  if (all.is_meta()) return at::empty_like(all);  // index_select has no Meta kernel
  return all.index_select(dim, gathered_places(layout.dim()).to(all.device()));
}

}  // namespace axial::parallel
