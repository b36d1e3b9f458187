// SPDX-License-Identifier: Apache-2.0
// Attention in plain loops, one query after the other, in fp64 or fp32: what attention.h means.
#include <cmath>
#include <limits>
#include <type_traits>

#include "axial/kernels/attention/implementations.h"
#include "axial/kernels/attention/masking.h"
#include "axial/kernels/attention/plan.h"

namespace axial::kernels::attention {
namespace {

template <class A>
A get(const void* data, DType dtype, int64_t at) {
  return dispatch_floating(dtype, "attention", [&]<class T>() {
    return static_cast<A>(static_cast<acc_t<T>>(static_cast<const T*>(data)[at]));
  });
}

template <class A>
void put(void* data, DType dtype, int64_t at, A value) {
  dispatch_floating(dtype, "attention", [&]<class T>() {
    if constexpr (std::is_floating_point_v<T>) {
      static_cast<T*>(data)[at] = static_cast<T>(value);
    } else {
      static_cast<T*>(data)[at] = T(static_cast<float>(value));
    }
  });
}

double lowest(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return std::numeric_limits<double>::lowest();
    case DType::kF32:
      return static_cast<double>(std::numeric_limits<float>::lowest());
    case DType::kBF16:
      return -0x1.fep127;
    default:
      return -65504.0;
  }
}

int64_t offset_of(const AttentionTensor& t, const AttentionSizes& s, const Place& place, int64_t row,
                  int64_t head) {
  return leading_offset(t.leading, place, s.num_leading) + row * t.row + head * t.head;
}

int64_t offset_of(const AttentionBias& b, const AttentionSizes& s, const Place& place, int64_t head,
                  int64_t query, int64_t key) {
  return leading_offset(b.leading, place, s.num_leading) + head * b.head + query * b.query + key * b.key;
}

template <class A>
A bias_at(const AttentionBias& b, const AttentionSizes& s, const Place& place, int64_t head, int64_t i,
          int64_t j) {
  if (b.data == nullptr) return 0;
  const double value = get<double>(b.data, b.dtype, offset_of(b, s, place, head, i, j));
  return value <= lowest(b.dtype) ? -std::numeric_limits<A>::infinity() : static_cast<A>(value);
}

template <class A>
A dot(const AttentionTensor& a, int64_t at, const AttentionTensor& b, int64_t bt, int64_t width) {
  return dispatch_floating(a.dtype, "attention", [&]<class Ta>() {
    return dispatch_floating(b.dtype, "attention", [&]<class Tb>() {
      const Ta* left = static_cast<const Ta*>(a.data) + at;
      const Tb* right = static_cast<const Tb*>(b.data) + bt;
      A sum = 0;
      for (int64_t c = 0; c < width; ++c) {
        sum += static_cast<A>(static_cast<acc_t<Ta>>(left[c * a.col])) *
               static_cast<A>(static_cast<acc_t<Tb>>(right[c * b.col]));
      }
      return sum;
    });
  });
}

// sum += factor * row
template <class A>
void add_row(A factor, const AttentionTensor& t, int64_t at, int64_t width, A* sum) {
  dispatch_floating(t.dtype, "attention", [&]<class T>() {
    const T* row = static_cast<const T*>(t.data) + at;
    for (int64_t c = 0; c < width; ++c)
      sum[c] += factor * static_cast<A>(static_cast<acc_t<T>>(row[c * t.col]));
  });
}

// Logits of query i of a head; minus infinity where a key is not seen.
template <class A>
void logits_of(const AttentionInputs& in, const Place& place, int64_t head, int64_t i, A* logits) {
  const AttentionSizes& s = in.sizes;
  const int64_t kv_head = head / (s.heads / s.kv_heads);
  const Interval keys = interval_of(in, place, i);
  const int64_t q = offset_of(in.q, s, place, i, head);
  for (int64_t j = 0; j < s.keys; ++j) {
    logits[j] = -std::numeric_limits<A>::infinity();
    if (j < keys.begin || j >= keys.end || !sees(in.mask, i, j)) continue;
    A bias = bias_at<A>(in.bias[0], s, place, head, i, j) + bias_at<A>(in.bias[1], s, place, head, i, j);
    if (in.slopes != nullptr) {
      bias += static_cast<A>(in.slopes[head]) *
              static_cast<A>(k_position_of(in, place, j) - q_position_of(in, place, i));
    }
    logits[j] =
        dot<A>(in.q, q, in.k, offset_of(in.k, s, place, j, kv_head), s.width) * static_cast<A>(in.scale) +
        bias;
  }
}

template <class A>
void forward_query(const AttentionForward& p, int64_t x, int64_t head, int64_t i, A* logits, A* result) {
  const AttentionSizes& s = p.in.sizes;
  const Place place = place_of(s, x);
  logits_of(p.in, place, head, i, logits);
  A largest = -std::numeric_limits<A>::infinity(), sum = 0;
  for (int64_t j = 0; j < s.keys; ++j) largest = std::max(largest, logits[j]);
  const A shift = std::isinf(largest) && largest < 0 ? 0 : largest;
  for (int64_t j = 0; j < s.keys; ++j) sum += logits[j] = std::exp(logits[j] - shift);
  const int64_t kv_head = head / (s.heads / s.kv_heads), out = offset_of(p.out, s, place, i, head);
  std::fill(result, result + s.width, A(0));
  for (int64_t j = 0; j < s.keys; ++j) {
    if (logits[j] == 0) continue;  // what is not seen may be anything, not a number too
    add_row(logits[j], p.in.v, offset_of(p.in.v, s, place, j, kv_head), s.width, result);
  }
  for (int64_t c = 0; c < s.width; ++c) {
    put(p.out.data, p.out.dtype, out + c * p.out.col, sum == 0 ? A(0) : result[c] / sum);
  }
  if (p.statistics == nullptr) return;
  A* statistics = static_cast<A*>(p.statistics) + ((x * s.heads + head) * s.queries + i) * 2;
  statistics[0] = largest;
  statistics[1] = sum;
}

// fp64 or fp32 sums of one thread, and of the biases' gradients.
template <class A>
struct Sums {
  A *logits, *dlogits, *dk, *dv, *dq;
};

template <class A>
void backward_query(const AttentionBackward& p, int64_t x, int64_t head, int64_t i, const Sums<A>& sums,
                    const BiasExtent (&extents)[2], A* const (&dbias)[2]) {
  const AttentionSizes& s = p.in.sizes;
  const Place place = place_of(s, x);
  const A* statistics = static_cast<const A*>(p.statistics) + ((x * s.heads + head) * s.queries + i) * 2;
  const bool seen = statistics[1] != 0;
  const int64_t kv_head = head / (s.heads / s.kv_heads);
  const int64_t dout = offset_of(p.dout, s, place, i, head), q = offset_of(p.in.q, s, place, i, head);
  const A delta = dot<A>(p.dout, dout, p.out, offset_of(p.out, s, place, i, head), s.width);
  if (seen) logits_of(p.in, place, head, i, sums.logits);
  for (int64_t j = 0; j < s.keys; ++j) {
    const A prob = seen ? std::exp(sums.logits[j] - statistics[0]) / statistics[1] : 0;
    sums.dlogits[j] = 0;
    if (prob == 0) continue;
    const A dp = dot<A>(p.dout, dout, p.in.v, offset_of(p.in.v, s, place, j, kv_head), s.width);
    sums.dlogits[j] = prob * (dp - delta);
    add_row(prob, p.dout, dout, s.width, sums.dv + j * s.width);
    add_row(sums.dlogits[j] * static_cast<A>(p.in.scale), p.in.q, q, s.width, sums.dk + j * s.width);
    for (int b = 0; b < 2; ++b) {
      if (dbias[b] == nullptr) continue;
      const BiasExtent& e = extents[b];
      dbias[b][leading_offset(e.leading, place, s.num_leading) + head * e.head + i * e.query + j * e.key] +=
          sums.dlogits[j];
    }
  }
  if (p.dq.data == nullptr) return;
  std::fill(sums.dq, sums.dq + s.width, A(0));
  for (int64_t j = 0; j < s.keys; ++j) {
    if (sums.dlogits[j] == 0) continue;
    add_row(sums.dlogits[j], p.in.k, offset_of(p.in.k, s, place, j, kv_head), s.width, sums.dq);
  }
  for (int64_t c = 0; c < s.width; ++c) {
    put(p.dq.data, p.dq.dtype, offset_of(p.dq, s, place, i, head) + c * p.dq.col,
        sums.dq[c] * static_cast<A>(p.in.scale));
  }
}

template <class A>
void write_keys(const AttentionTensor& out, const AttentionSizes& s, const Place& place, int64_t kv_head,
                const A* sums) {
  if (out.data == nullptr) return;
  for (int64_t j = 0; j < s.keys; ++j) {
    for (int64_t c = 0; c < s.width; ++c) {
      put(out.data, out.dtype, offset_of(out, s, place, j, kv_head) + c * out.col, sums[j * s.width + c]);
    }
  }
}

template <class A>
void backward_head(const AttentionBackward& p, int64_t unit, const Sums<A>& sums,
                   const BiasExtent (&extents)[2], A* const (&dbias)[2]) {
  const AttentionSizes& s = p.in.sizes;
  const int64_t x = unit / s.kv_heads, kv_head = unit % s.kv_heads, group = s.heads / s.kv_heads;
  std::fill(sums.dk, sums.dk + s.keys * s.width, A(0));
  std::fill(sums.dv, sums.dv + s.keys * s.width, A(0));
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t i = 0; i < s.queries; ++i) backward_query<A>(p, x, head, i, sums, extents, dbias);
  }
  write_keys<A>(p.dk, s, place_of(s, x), kv_head, sums.dk);
  write_keys<A>(p.dv, s, place_of(s, x), kv_head, sums.dv);
}

template <class A>
void write_bias(const AttentionBias& out, const AttentionSizes& s, const BiasExtent& e, const A* sums) {
  AttentionSizes some = s;  // a bias that is broadcast over an empty dim has elements all the same
  for (int64_t& n : some.leading) n = std::max<int64_t>(n, 1);
  if (e.count == 0) return;
  for (int64_t x = 0; x < leading_count(some); ++x) {
    const Place place = place_of(some, x);
    const int64_t from = leading_offset(e.leading, place, s.num_leading);
    for (int64_t h = 0; h < (e.head == 0 ? 1 : s.heads); ++h) {
      for (int64_t i = 0; i < (e.query == 0 ? 1 : s.queries); ++i) {
        for (int64_t j = 0; j < (e.key == 0 ? 1 : s.keys); ++j) {
          put(out.data, out.dtype, offset_of(out, s, place, h, i, j),
              sums[from + h * e.head + i * e.query + j * e.key]);
        }
      }
    }
  }
}

template <class A>
void run_backward(const AttentionBackward& p, const ParallelFor& parallel_for) {
  const AttentionSizes& s = p.in.sizes;
  const int64_t units = leading_count(s) * s.kv_heads, floats = 2 * s.keys * (s.width + 1) + s.width;
  A* at = static_cast<A*>(p.workspace);
  BiasExtent extents[2];
  A* dbias[2] = {nullptr, nullptr};
  for (int b = 0; b < 2; ++b) {
    if (p.dbias[b].data == nullptr) continue;
    extents[b] = extent_of(p.dbias[b], s);
    dbias[b] = at;
    at += extents[b].count;
    std::fill(dbias[b], at, A(0));
  }
  const bool serial = dbias[0] != nullptr || dbias[1] != nullptr;
  for_units(units, serial ? 1 : p.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    A* mine = at + slot * floats;
    A* dk = mine + 2 * s.keys;
    A* dv = dk + s.keys * s.width;
    backward_head<A>(p, unit, {mine, mine + s.keys, dk, dv, dv + s.keys * s.width}, extents, dbias);
  });
  for (int b = 0; b < 2; ++b) {
    if (dbias[b] != nullptr) write_bias<A>(p.dbias[b], s, extents[b], dbias[b]);
  }
}

template <class A>
void run_forward(const AttentionForward& p, const ParallelFor& parallel_for) {
  const AttentionSizes& s = p.in.sizes;
  for_units(leading_count(s) * s.heads, p.num_threads, parallel_for, [&](int64_t unit, int64_t slot) {
    A* logits = static_cast<A*>(p.workspace) + slot * (s.keys + s.width);
    for (int64_t i = 0; i < s.queries; ++i) {
      forward_query<A>(p, unit / s.heads, unit % s.heads, i, logits, logits + s.keys);
    }
  });
}

int64_t acc_bytes(const AttentionInputs& in) { return in.q.dtype == DType::kF64 ? 8 : 4; }

}  // namespace

int64_t reference_workspace(const AttentionForward& p) {
  return std::max<int64_t>(p.num_threads, 1) * (p.in.sizes.keys + p.in.sizes.width) * acc_bytes(p.in);
}

int64_t reference_workspace(const AttentionBackward& p) {
  const AttentionSizes& s = p.in.sizes;
  int64_t count = std::max<int64_t>(p.num_threads, 1) * (2 * s.keys * (s.width + 1) + s.width);
  for (const AttentionBias& bias : p.dbias) count += extent_of(bias, s).count;
  return count * acc_bytes(p.in);
}

Status reference_forward(const AttentionForward& p, const ParallelFor& parallel_for) {
  p.in.q.dtype == DType::kF64 ? run_forward<double>(p, parallel_for) : run_forward<float>(p, parallel_for);
  return {};
}

Status reference_backward(const AttentionBackward& p, const ParallelFor& parallel_for) {
  p.in.q.dtype == DType::kF64 ? run_backward<double>(p, parallel_for) : run_backward<float>(p, parallel_for);
  return {};
}

}  // namespace axial::kernels::attention
