// SPDX-License-Identifier: Apache-2.0
// Positions of a block's token part in tiles: which slices of its tensors a tile is, and where what it gives
// belongs. Used by the runner (step_tiles.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "axial/parallel/block/block.h"
#include "axial/parallel/layout/interval.h"
#include "axial/parallel/mesh/mesh.h"

namespace axial::parallel {

/// The tiles of one call. L positions make ceil(L / tile_tokens) of them on every rank of `tensor`, in even
/// parts of what each rank has of the stream: so a tile's positions lie over the ranks as those of a row of
/// its length do.
class Tiles {
 public:
  /// `tensors`: at least what the block's token part reads. tile_tokens 0: one tile. `mesh` says the ranks of
  /// a cut stream. Throws ValueError naming block and tensor where positions differ or are not told.
  Tiles(const Block& block, const NamedTensors& tensors, int64_t tile_tokens, const Mesh& mesh);

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  /// What the token part reads, of tile i: views, but rows of a cut stream are copied from the ranks' pieces.
  NamedTensors read(const NamedTensors& tensors, int64_t i) const;
  /// The slice of a whole tensor that tile i is; as read.
  at::Tensor slice(const at::Tensor& whole, Positions how, int64_t i) const;
  /// Put what tile i gave into `whole`, made with the first; undefined parts are zeros. Sums are summed in
  /// fp64 and get the dtype of their parts with the last tile. Throws ValueError naming block and tensor for
  /// a missing result or another shape.
  void put(at::Tensor& whole, const std::string& name, Positions how, const at::Tensor& part,
           int64_t i) const;

 private:
  const std::vector<Interval>& places(Positions how, int64_t i) const;
  void check_positions(const std::string& name, Positions how, const at::Tensor& tensor) const;

  const Block& block_;
  int64_t length_ = 0;                         // L
  int64_t stream_length_ = 0;                  // L'
  std::vector<std::vector<Interval>> rows_;    // per tile: of whole rows, an interval per rank
  std::vector<std::vector<Interval>> stream_;  // per tile: of the stream here
};

}  // namespace axial::parallel
