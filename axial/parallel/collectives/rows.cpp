// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/collectives/rows.h"

#include <ATen/ATen.h>

#include "axial/core/check/check.h"

namespace axial::parallel {

at::Tensor whole_rows(const at::Tensor& piece, int64_t dim, const SequenceLayout& layout,
                      Communicator& ranks) {
  AXIAL_CHECK(piece.size(dim) == layout.local_length(), "rows", "dim {}; expected {} positions, got {}", dim,
              layout.local_length(), piece.size(dim));
  Sizes sizes;
  at::Tensor place = at::empty({layout.length()}, at::kLong);  // in the gathered order, of every position
  int64_t at = 0;
  for (int64_t r = 0; r < layout.dim().num_ranks(); ++r) {
    sizes.push_back(layout.dim().local_size(r));
    for (const Interval& held : layout.dim().owned(r)) {
      for (int64_t i = held.begin; i < held.end; ++i) place.mutable_data_ptr<int64_t>()[i] = at++;
    }
  }
  const at::Tensor all = ranks.all_gather(piece, dim, ranks.mesh().sequence_axes(), sizes);
  if (all.is_meta()) return at::empty_like(all);  // index_select has no Meta kernel
  return all.index_select(dim, place.to(all.device()));
}

}  // namespace axial::parallel
