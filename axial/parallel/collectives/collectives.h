// SPDX-License-Identifier: Apache-2.0
// Differentiable collectives: what blocks of a model call. Forward and backward are each one collective, or
// none. Groups of one rank, and `ranks` null (no mesh at all), are the identity without a node in the graph.
//
// Names say what a value is over the group: `replicated` (equal on all ranks; so is its gradient, after
// copy_to), `partial` (the ranks' values sum up to it), `sharded` (each has its own piece along a dim).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

/// Replicated -> used differently by each rank. Forward: nothing; backward: all-reduce. (f of Shoeybi et al.,
/// 2019.)
at::Tensor copy_to(const at::Tensor& x, Communicator* ranks, const Axes& axes);
/// Partial -> replicated. Forward: all-reduce; backward: nothing. (g of Shoeybi et al., 2019.)
at::Tensor reduce_from(const at::Tensor& x, Communicator* ranks, const Axes& axes);
/// Sharded along `dim` -> whole, used differently by each rank. Forward: all-gather; backward:
/// reduce-scatter. `sizes`: of the shards, none: equal. (Korthikanti et al., 2022.)
at::Tensor gather_from(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                       const Sizes& sizes = {});
/// Partial -> sharded along `dim`. Forward: reduce-scatter; backward: all-gather.
at::Tensor reduce_scatter_to(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                             const Sizes& sizes = {});
/// Replicated -> sharded along `dim`. Forward: this rank's piece; backward: all-gather.
at::Tensor scatter_to(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                      const Sizes& sizes = {});
/// Sharded along `dim` -> replicated. Forward: all-gather; backward: this rank's piece.
at::Tensor replicate_from(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                          const Sizes& sizes = {});
/// Sharded along `join_dim` -> sharded along `split_dim`; sizes as in Communicator::all_to_all. Backward: the
/// other way. (Jacobs et al., 2023.)
at::Tensor all_to_all(const at::Tensor& x, int64_t split_dim, int64_t join_dim, Communicator* ranks,
                      const Axes& axes, const Sizes& split_sizes = {}, const Sizes& join_sizes = {});
/// The tensor of the group's rank `root` -> used differently by each rank; the others pass one of its shape
/// and dtype. Forward: broadcast; backward: all-reduce, of which the root keeps the sum and the others zeros.
at::Tensor broadcast_from(const at::Tensor& x, int64_t root, Communicator* ranks, const Axes& axes);
/// Every rank's tensor -> that of the rank `by` places before it in the group, in a circle; all of one shape
/// and dtype. Forward: a send and a recv; backward: the other way.
at::Tensor shift(const at::Tensor& x, int64_t by, Communicator* ranks, const Axes& axes);

/// Equal pieces of `total` over `parts` ranks, the first ones one longer where it does not divide.
Sizes even_sizes(int64_t total, int64_t parts);

}  // namespace axial::parallel
