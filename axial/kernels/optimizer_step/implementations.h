// SPDX-License-Identifier: Apache-2.0
// What the implementations behind optimizer_step.h share: the walk over the chunks of a list, a part of a
// tensor as plain pointers, and the scalars of AdamW. For this folder only.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>

#include "axial/kernels/optimizer_step/optimizer_step.h"

namespace axial::kernels::optimizer_step {

inline constexpr int64_t kChunk = 65536;

template <class Tensors>
int64_t total_count(const Tensors& tensors) {
  int64_t total = 0;
  for (const auto& tensor : tensors) total += tensor.count;
  return total;
}

/// Cut the concatenation of `tensors` into chunks and call body(t, begin, end, chunk) for each part
/// [begin, end) of tensor t that lies in a chunk. The cut depends on the counts alone.
template <class Tensors, class Body>
void for_each_part(const Tensors& tensors, const ParallelFor& parallel_for, const Body& body) {
  const int64_t total = total_count(tensors);
  parallel_for((total + kChunk - 1) / kChunk, 1, [&](int64_t first_chunk, int64_t last_chunk) {
    size_t t = 0;
    int64_t start = 0;  // of tensor t in the concatenation
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      int64_t at = chunk * kChunk;
      const int64_t chunk_end = std::min(total, at + kChunk);
      while (at < chunk_end) {
        while (start + tensors[t].count <= at) start += tensors[t++].count;
        const int64_t end = std::min(chunk_end, start + tensors[t].count);
        body(t, at - start, end - start, chunk);
        at = end;
      }
    }
  });
}

/// Scalars of AdamW for one tensor, in fp64.
struct AdamWScalars {
  double grad_scale, one_minus_beta1, beta2, one_minus_beta2, decay, step_size, rsqrt_correction, eps;
};

inline AdamWScalars adamw_scalars(const AdamWStep& p, const AdamWTensor& t) {
  const double step = static_cast<double>(t.step);
  return {.grad_scale = p.grad_scale,
          .one_minus_beta1 = 1 - p.beta1,
          .beta2 = p.beta2,
          .one_minus_beta2 = 1 - p.beta2,
          .decay = t.lr * t.weight_decay,
          .step_size = t.lr / (1 - std::pow(p.beta1, step)),
          .rsqrt_correction = 1 / std::sqrt(1 - std::pow(p.beta2, step)),
          .eps = p.eps};
}

/// Elements [begin, end) of a tensor, typed; `copy` keeps its run-time dtype.
template <class T, class G>
struct AdamWPart {
  T* parameter;
  T* exp_avg;
  T* exp_avg_sq;
  const G* grad;
  uint8_t* copy;  // or null
  DType copy_dtype;
  int64_t count;
  AdamWScalars scalars;
};

template <class T, class G>
AdamWPart<T, G> adamw_part(const AdamWStep& p, size_t index, int64_t begin, int64_t end) {
  const AdamWTensor& t = p.tensors[index];
  uint8_t* copy = t.copy == nullptr ? nullptr : static_cast<uint8_t*>(t.copy) + begin * size_of(p.copy_dtype);
  return {static_cast<T*>(t.parameter) + begin,
          static_cast<T*>(t.exp_avg) + begin,
          static_cast<T*>(t.exp_avg_sq) + begin,
          static_cast<const G*>(t.grad) + begin,
          copy,
          p.copy_dtype,
          end - begin,
          adamw_scalars(p, t)};
}

/// Call f<T, G>() for the dtypes of an AdamW step that adamw_step() lets through.
template <class F>
void dispatch_adamw(const AdamWStep& p, F&& f) {
  dispatch_floating(p.grad_dtype, "adamw_step", [&]<class G>() {
    if (p.dtype == DType::kF32) {
      if constexpr (!std::is_same_v<G, double>) f.template operator()<float, G>();
    } else if constexpr (sizeof(G) >= 4) {
      f.template operator()<double, G>();
    }
  });
}

/// Sum the parts of every tensor with `part_sum(const T*, count)` and add them in order of chunk.
/// The part of tensor t in chunk c has slot c + t: along the list one of the two grows at each part.
template <class T, class PartSum>
void sum_parts(const SumOfSquares& p, const ParallelFor& parallel_for, const PartSum& part_sum) {
  double* slots = static_cast<double*>(p.workspace);
  for_each_part(p.tensors, parallel_for, [&](size_t t, int64_t begin, int64_t end, int64_t chunk) {
    slots[chunk + static_cast<int64_t>(t)] =
        part_sum(static_cast<const T*>(p.tensors[t].data) + begin, end - begin);
  });
  int64_t start = 0;
  for (size_t t = 0; t < p.tensors.size(); ++t) {
    const int64_t end = start + p.tensors[t].count;
    double sum = 0;
    for (int64_t c = start / kChunk; c * kChunk < end; ++c) {
      if (end > start) sum += slots[c + static_cast<int64_t>(t)];
    }
    p.sums[t] = sum;
    start = end;
  }
}

/// Whether `part_finite(const T*, count)` holds for every part.
template <class T, class PartFinite>
void check_parts(const FiniteCheck& p, const ParallelFor& parallel_for, const PartFinite& part_finite) {
  std::atomic<bool> finite{true};
  for_each_part(p.tensors, parallel_for, [&](size_t t, int64_t begin, int64_t end, int64_t) {
    if (!finite.load(std::memory_order_relaxed)) return;
    if (!part_finite(static_cast<const T*>(p.tensors[t].data) + begin, end - begin)) {
      finite.store(false, std::memory_order_relaxed);
    }
  });
  *p.finite = finite.load();
}

Status simd_adamw_step(const AdamWStep& params, const ParallelFor& parallel_for);
Status simd_sum_of_squares(const SumOfSquares& params, const ParallelFor& parallel_for);
Status simd_finite_check(const FiniteCheck& params, const ParallelFor& parallel_for);
Status reference_adamw_step(const AdamWStep& params, const ParallelFor& parallel_for);
Status reference_sum_of_squares(const SumOfSquares& params, const ParallelFor& parallel_for);
Status reference_finite_check(const FiniteCheck& params, const ParallelFor& parallel_for);

}  // namespace axial::kernels::optimizer_step
