// SPDX-License-Identifier: Apache-2.0
// The kernels of attention on CUDA in their order, on a grid: a device's (launch.cu), or emulated blocks (the
// tests). Grid::Block is the block that its kernels are written over; grid.run<Kernel>(args...) runs all of
// Kernel::blocks(args...).
#pragma once

#include "axial/kernels/attention/cuda/backward_keys.h"
#include "axial/kernels/attention/cuda/backward_queries.h"
#include "axial/kernels/attention/cuda/forward.h"
#include "axial/kernels/attention/cuda/sums.h"

namespace axial::kernels::attention::cuda {

/// Call body with kWidth for heads of `width`, at most kMostWidth.
template <class Body>
void for_width(int64_t width, const Body& body) {
  switch (padded_width(width)) {
    case 16:
      return body.template operator()<16>();
    case 32:
      return body.template operator()<32>();
    case 64:
      return body.template operator()<64>();
    default:
      return body.template operator()<128>();
  }
}

template <class T, int kWidth, class Grid>
void run_forward(const AttentionForward& p, const Grid& grid) {
  grid.template run<Forward<T, kWidth, typename Grid::Block>>(p);
}

/// `workspace` holds passes_of(p).floats.
template <class T, int kWidth, class Grid>
void run_backward(const AttentionBackward& p, float* workspace, const Grid& grid) {
  using Block = typename Grid::Block;
  const BackwardPasses passes = passes_of(p);
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : workspace + offset; };
  const BackwardScratch scratch = {workspace, at(passes.by_query), at(passes.by_key), at(passes.parts)};
  grid.template run<SumDelta<Block>>(p, scratch);
  if (passes.queries) grid.template run<BackwardQueries<T, kWidth, Block>>(p, scratch);
  if (passes.keys) grid.template run<BackwardKeys<T, kWidth, Block>>(p, scratch);
  for (int b = 0; b < 2; ++b) {
    const BiasGradient& gradient = passes.biases[b];
    const BiasPass pass = {b, gradient.cut, gradient.splits};
    switch (gradient.source) {
      case BiasSource::kNone:
        break;
      case BiasSource::kTiles:
        grid.template run<BackwardBias<T, kWidth, Block>>(p, scratch, pass);
        if (pass.splits > 1) grid.template run<SumParts<Block>>(p, scratch, pass);
        break;
      case BiasSource::kByKey:
      case BiasSource::kByQuery: {
        const bool by_key = gradient.source == BiasSource::kByKey;
        const HeadSums sums = {p.dbias[b], gradient.cut, by_key ? scratch.by_key : scratch.by_query, by_key};
        grid.template run<SumHeads<Block>>(p.in.sizes, sums);
        break;
      }
    }
  }
}

}  // namespace axial::kernels::attention::cuda
