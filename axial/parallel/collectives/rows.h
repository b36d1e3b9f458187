// SPDX-License-Identifier: Apache-2.0
// Rows that ranks of ring and ulysses share, whole again: what inference hands out.
#pragma once

#include <ATen/core/Tensor.h>

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/layout/dim_layout.h"
#include "axial/parallel/layout/sequence_layout.h"

namespace axial::parallel {

/// How many entries each rank holds.
Sizes sizes_of(const DimLayout& layout);

/// Of every index of the dim its place after an all-gather of the ranks' parts: [size] int64 on the host.
at::Tensor gathered_places(const DimLayout& layout);

/// The whole rows, on every rank, in row order, of which `piece` holds this rank's positions along `dim`:
/// [.., L, ..] -> [.., N, ..]. One all-gather. Throws ValueError for another number of positions.
at::Tensor whole_rows(const at::Tensor& piece, int64_t dim, const SequenceLayout& layout,
                      Communicator& ranks);

}  // namespace axial::parallel
