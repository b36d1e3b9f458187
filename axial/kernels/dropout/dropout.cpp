// SPDX-License-Identifier: Apache-2.0
// Plain loops over the map of dropout.h: sixteen Philox calls at a time keep the rounds in vector registers
// of whatever width the compiler targets, and every element depends on its own place only.
#include "axial/kernels/dropout/dropout.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace axial::kernels {
namespace {

constexpr int64_t kCalls = 16;

// Words of calls [first, first + kCalls) of a position; words[w][i] is word w of call first + i.
using Words = std::array<std::array<uint32_t, kCalls>, 4>;

void philox_block(RngKey key, uint64_t position, uint64_t first, Words& words) {
  for (int64_t i = 0; i < kCalls; ++i) {
    const auto r = philox(key, position, first + static_cast<uint64_t>(i));
    for (size_t w = 0; w < 4; ++w) words[w][static_cast<size_t>(i)] = r[w];
  }
}

template <class T>
void drop_row(const DropoutParams& params, RngKey key, uint64_t position, uint64_t threshold, const T* x,
              T* y) {
  using A = acc_t<T>;
  const A scale = static_cast<A>(1.0 / (1.0 - params.p));
  Words words;
  for (int64_t c = 0; c < params.channels; c += 4 * kCalls) {
    philox_block(key, position, static_cast<uint64_t>(c / 4), words);
    const int64_t count = std::min(4 * kCalls, params.channels - c);
    for (int64_t j = 0; j < count; ++j) {
      const bool keep = words[static_cast<size_t>(j % 4)][static_cast<size_t>(j / 4)] >= threshold;
      y[c + j] = keep ? static_cast<T>(static_cast<A>(x[c + j]) * scale) : T(A(0));
    }
  }
}

template <class T>
void drop(const DropoutParams& params, const ParallelFor& parallel_for) {
  const auto threshold = static_cast<uint64_t>(std::llround(params.p * 0x1p32));
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(params.channels, 1));
  parallel_for(params.batch * params.tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / params.tokens, t = row % params.tokens;
      const T* x = static_cast<const T*>(params.x) + b * params.x_batch_stride + t * params.x_token_stride;
      T* y = static_cast<T*>(params.y) + row * params.channels;
      if (params.p == 0) {
        std::copy(x, x + params.channels, y);
      } else {
        const RngKey key = params.key.child(static_cast<uint64_t>(params.sample_ids[b]));
        drop_row(params, key, static_cast<uint64_t>(params.positions[t]), threshold, x, y);
      }
    }
  });
}

}  // namespace

Status dropout(const DropoutParams& params, const ParallelFor& parallel_for) {
  if (!(params.p >= 0 && params.p <= 1)) {
    return Status::invalid(fmt::format("probability; expected 0 <= p <= 1, got {}", params.p));
  }
  if (params.batch < 0 || params.tokens < 0 || params.channels < 0) {
    return Status::invalid(fmt::format("sizes; expected B, T, C >= 0, got {}, {}, {}", params.batch,
                                       params.tokens, params.channels));
  }
  switch (params.dtype) {
    case DType::kF64:
      drop<double>(params, parallel_for);
      return {};
    case DType::kF32:
      drop<float>(params, parallel_for);
      return {};
    case DType::kBF16:
      drop<BFloat16>(params, parallel_for);
      return {};
    case DType::kF16:
      drop<Float16>(params, parallel_for);
      return {};
    default:
      return Status::unsupported(
          fmt::format("dtype {}; expected float64, float32, bfloat16 or float16", name_of(params.dtype)));
  }
}

}  // namespace axial::kernels
