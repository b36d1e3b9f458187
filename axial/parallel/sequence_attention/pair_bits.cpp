// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/sequence_attention/pair_bits.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "axial/ops/common/kernel_call.h"

namespace axial::parallel {

namespace {

constexpr int64_t kWrittenBytes = int64_t{64} << 20;
constexpr int64_t kBlock = 64;  // of masks

template <class T>
void write_bias(const at::Tensor& bits, const Interval& queries, const Interval& keys,
                const at::Tensor& bias) {
  const int64_t stride = bits.size(2), all = bits.size(1), count = queries.size(), width = keys.size();
  const auto* in = bits.const_data_ptr<uint8_t>();
  auto* out = bias.mutable_data_ptr<T>();
  at::parallel_for(0, bits.size(0) * count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* of_query = in + (i / count * all + queries.begin + i % count) * stride;
      for (int64_t k = 0; k < width; ++k) {
        const int64_t key = keys.begin + k;
        const bool hidden = (of_query[key / 8] >> (key % 8) & 1U) != 0;
        out[i * width + k] = hidden ? -std::numeric_limits<T>::infinity() : T(0);
      }
    }
  });
}

}  // namespace

at::Tensor make_pair_bits(int64_t rows, int64_t queries, int64_t keys, at::Device device) {
  return at::zeros({rows, queries, (keys + 7) / 8}, at::TensorOptions(at::kByte).device(device));
}

at::Tensor bias_of_bits(const at::Tensor& bits, const Interval& queries, const Interval& keys,
                        const at::Tensor& q) {
  const at::ScalarType dtype = ops::accumulate_type(q.scalar_type());
  const std::vector<int64_t> shape{bits.size(0), 1, queries.size(), keys.size()};
  if (q.is_meta()) return at::empty(shape, q.options().dtype(dtype).requires_grad(false));
  const at::Tensor bias = at::empty(shape, at::TensorOptions(dtype));
  if (dtype == at::kDouble) {
    write_bias<double>(bits, queries, keys, bias);
  } else {
    write_bias<float>(bits, queries, keys, bias);
  }
  return bias.to(q.device());
}

int64_t queries_at_a_time(int64_t keys) {
  const int64_t fit = kWrittenBytes / (static_cast<int64_t>(sizeof(float)) * std::max<int64_t>(keys, 1));
  return std::max(kBlock, fit / kBlock * kBlock);
}

}  // namespace axial::parallel
