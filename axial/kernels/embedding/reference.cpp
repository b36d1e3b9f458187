// SPDX-License-Identifier: Apache-2.0
// The gradient of row lookup in plain loops: the specification of embedding.h.
#include "axial/kernels/embedding/implementations.h"

namespace axial::kernels::embedding_impl {

Status reference_backward(const EmbeddingBackward& params, const ParallelFor& parallel_for) {
  const Places places = sort_places(params);
  dispatch_floating(params.dtype, "embedding_backward", [&]<class T>() {
    for_each_block(params, places, parallel_for, [&](int64_t v, int64_t column, int64_t width) {
      const T* from = static_cast<const T*>(params.dout) + column;
      T* to = static_cast<T*>(params.dweight) + v * params.dweight_stride + column;
      for (int64_t c = 0; c < width; ++c) {
        acc_t<T> sum = 0;
        for (int64_t i = places.begin[v]; i < places.begin[v + 1]; ++i) {
          sum += static_cast<acc_t<T>>(from[places.order[i] * params.dout_stride + c]);
        }
        to[c] = static_cast<T>(sum);
      }
    });
  });
  return {};
}

}  // namespace axial::kernels::embedding_impl
