// SPDX-License-Identifier: Apache-2.0
// Argument checks of embedding.h, the copying forward and the table of backward implementations.
#include "axial/kernels/embedding/embedding.h"

#include <cstring>

#include "axial/kernels/common/row_splits.h"
#include "axial/kernels/embedding/implementations.h"

namespace axial::kernels {
namespace {

Status anything(const EmbeddingBackward&) { return {}; }

constexpr Implementation<EmbeddingBackward> kBackward[] = {
    {"simd", anything, embedding_impl::simd_backward},
    {"reference", anything, embedding_impl::reference_backward},
};

template <class Params>
Status check(const Params& p) {
  if (p.rows < 0 || p.cols < 0 || p.count < 0) {
    return Status::invalid(fmt::format("sizes; expected none negative, got {} rows, {} columns, {} ids",
                                       p.rows, p.cols, p.count));
  }
  for (int64_t i = 0; i < p.count; ++i) {
    if (p.ids[i] < 0 || p.ids[i] >= p.rows) {
      return Status::invalid(
          fmt::format("id out of range at place {}; expected in [0, {}), got {}", i, p.rows, p.ids[i]));
    }
  }
  return {};
}

}  // namespace

std::span<const Implementation<EmbeddingBackward>> embedding_backward_table() { return kBackward; }

int64_t workspace_bytes(const EmbeddingBackward& params) {
  return (params.rows + 1 + params.count) * static_cast<int64_t>(sizeof(int64_t));
}

Status embedding_forward(const EmbeddingForward& params, const ParallelFor& parallel_for) {
  if (Status checked = check(params); !checked.ok()) return checked;
  const int64_t size = size_of(params.dtype);
  const size_t row_bytes = static_cast<size_t>(params.cols * size);
  const char* weight = static_cast<const char*>(params.weight);
  char* out = static_cast<char*>(params.out);
  if (row_bytes == 0) return {};
  parallel_for(params.count, row_grain(params.cols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(out + i * params.out_stride * size, weight + params.ids[i] * params.weight_stride * size,
                  row_bytes);
    }
  });
  return {};
}

Status embedding_backward(const EmbeddingBackward& params, const ParallelFor& parallel_for) {
  if (params.dtype > DType::kF16) {
    return Status::unsupported(
        fmt::format("expected float64, float32, bfloat16 or float16, got {}", name_of(params.dtype)));
  }
  if (Status checked = check(params); !checked.ok()) return checked;
  if (params.rows == 0 || params.cols == 0) return {};
  return run_first(embedding_backward_table(), params, parallel_for);
}

}  // namespace axial::kernels
