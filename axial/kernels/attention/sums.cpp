// SPDX-License-Identifier: Apache-2.0
// The shares of sums.h, cleared before and added after the units. Sums are taken in double, one chunk of the
// result at a time: there is little of it beside the attention itself.
#include "axial/kernels/attention/sums.h"

#include "axial/kernels/attention/masking.h"

namespace axial::kernels::attention {
namespace {

constexpr int64_t kChunk = 256;

// Size and output stride of X.. and H, of which stride 0 is summed over.
struct RowDims {
  int count = 0;
  int64_t size[kMaxDims] = {}, stride[kMaxDims] = {};
};

RowDims row_dims(const AttentionSizes& sizes, const AttentionBias& out) {
  RowDims dims;
  for (int i = 0; i < sizes.num_leading; ++i) {
    dims.size[dims.count] = sizes.leading[i];
    dims.stride[dims.count++] = out.leading[i];
  }
  dims.size[dims.count] = sizes.heads;
  dims.stride[dims.count++] = out.head;
  return dims;
}

// Call body(row number) for the rows of one kept index, in order; returns the output offset.
template <class Body>
int64_t for_rows_of(const RowDims& dims, int64_t kept, const Body& body) {
  int64_t offset = 0, summed = 1, fixed[kMaxDims] = {};
  for (int i = dims.count - 1; i >= 0; --i) {
    if (dims.stride[i] == 0) {
      summed *= dims.size[i];
      continue;
    }
    fixed[i] = kept % dims.size[i];
    kept /= dims.size[i];
    offset += fixed[i] * dims.stride[i];
  }
  for (int64_t s = 0; s < summed; ++s) {
    int64_t row = 0, rest = s, place[kMaxDims];
    for (int i = dims.count - 1; i >= 0; --i) {
      place[i] = dims.stride[i] == 0 ? rest % dims.size[i] : fixed[i];
      if (dims.stride[i] == 0) rest /= dims.size[i];
    }
    for (int i = 0; i < dims.count; ++i) row = row * dims.size[i] + place[i];
    body(row);
  }
  return offset;
}

template <class T>
void write(T* to, double value) {
  *to = T(static_cast<float>(value));
}

// shares [R, parts, items] -> out, over the items with stride `item`.
void add_rows(const AttentionSizes& sizes, const float* shares, int64_t parts, int64_t items, int64_t item,
              const AttentionBias& out, const ParallelFor& parallel_for) {
  const RowDims dims = row_dims(sizes, out);
  int64_t kept = 1;
  for (int i = 0; i < dims.count; ++i) kept *= dims.stride[i] == 0 ? 1 : dims.size[i];
  parallel_for(kept, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      double total = 0;
      int64_t offset = 0;
      for (int64_t first = 0; first < items; first += kChunk) {
        const int64_t n = std::min(kChunk, items - first);
        double sum[kChunk] = {};
        offset = for_rows_of(dims, index, [&](int64_t row) {
          for (int64_t part = 0; part < parts; ++part) {
            const float* share = shares + (row * parts + part) * items + first;
            for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(share[i]);
          }
        });
        dispatch_floating(out.dtype, "attention", [&]<class T>() {
          T* to = static_cast<T*>(out.data) + offset;
          for (int64_t i = 0; i < n; ++i) {
            total += sum[i];
            if (item != 0) write(to + (first + i) * item, sum[i]);
          }
        });
      }
      if (item != 0) continue;
      dispatch_floating(out.dtype, "attention",
                        [&]<class T>() { write(static_cast<T*>(out.data) + offset, total); });
    }
  });
}

// Shares [splits, extent.count] in compact order -> out in its own strides.
void add_dense(const AttentionSizes& sizes, const float* shares, int64_t splits, const BiasExtent& extent,
               const AttentionBias& out, const ParallelFor& parallel_for) {
  const int64_t row = extent.key == 0 ? 1 : sizes.keys;
  parallel_for(extent.count / row, 16, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      int64_t rest = line, offset = 0;
      const auto take = [&](int64_t compact, int64_t size, int64_t stride) {
        if (compact == 0) return;
        offset += rest % size * stride;
        rest /= size;
      };
      take(extent.query, sizes.queries, out.query);
      take(extent.head, sizes.heads, out.head);
      for (int i = sizes.num_leading - 1; i >= 0; --i)
        take(extent.leading[i], sizes.leading[i], out.leading[i]);
      dispatch_floating(out.dtype, "attention", [&]<class T>() {
        T* to = static_cast<T*>(out.data) + offset;
        for (int64_t key = 0; key < row; ++key) {
          double sum = 0;
          for (int64_t s = 0; s < splits; ++s)
            sum += static_cast<double>(shares[s * extent.count + line * row + key]);
          write(to + key * out.key, sum);
        }
      });
    }
  });
}

// Shares [P, rows, J, D] of keys that the part's queries see -> out: sums of a row of D over the parts.
void add_parts_of(const AttentionInputs& in, const Plan& plan, const float* shares, double scale,
                  const AttentionTensor& out, const ParallelFor& parallel_for) {
  const AttentionSizes& s = in.sizes;
  const int64_t rows = leading_count(s) * s.kv_heads, width = s.width;
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Place place = place_of(s, row / s.kv_heads);
      place.kv_head = row % s.kv_heads;
      const int64_t offset = leading_offset(out.leading, place, s.num_leading) + place.kv_head * out.head;
      Interval seen[kMaxSplits];
      for (int64_t p = 0; p < plan.query_parts; ++p)
        seen[p] = keys_seen(in, place, {plan.part_begin(p), plan.part_begin(p + 1)});
      dispatch_floating(out.dtype, "attention", [&]<class T>() {
        for (int64_t key = 0; key < s.keys; ++key) {
          T* to = static_cast<T*>(out.data) + offset + key * out.row;
          for (int64_t first = 0; first < width; first += kChunk) {
            const int64_t n = std::min(kChunk, width - first);
            double sum[kChunk] = {};
            for (int64_t p = 0; p < plan.query_parts; ++p) {
              if (key < seen[p].begin || key >= seen[p].end) continue;
              const float* share = shares + ((p * rows + row) * s.keys + key) * width + first;
              for (int64_t c = 0; c < n; ++c) sum[c] += static_cast<double>(share[c]);
            }
            for (int64_t c = 0; c < n; ++c) write(to + (first + c) * out.col, sum[c] * scale);
          }
        }
      });
    }
  });
}

void zero(float* at, int64_t count, const ParallelFor& parallel_for) {
  constexpr int64_t kPiece = 1 << 16;
  parallel_for(ceil_div(count, kPiece), 1, [&](int64_t begin, int64_t end) {
    std::fill(at + begin * kPiece, at + std::min(end * kPiece, count), 0.0f);
  });
}

// Every element of a gradient whose blocks are written one by one: some may be skipped.
void zero_bias(const AttentionSizes& sizes, const BiasExtent& extent, const AttentionBias& out,
               const ParallelFor& parallel_for) {
  add_dense(sizes, nullptr, 0, extent, out, parallel_for);
}

}  // namespace

BackwardSums::BackwardSums(const AttentionBackward& params, const Plan& plan, float* base) : pieces(base) {
  const AttentionSizes& s = params.in.sizes;
  const int64_t leading = leading_count(s), rows = leading * s.heads;
  // Several stripes of a part meet every key, one after the other.
  const bool adds_stripes = plan.stripe > 0 && plan.part > plan.stripe;
  if (plan.query_parts > 1 || adds_stripes) {
    const int64_t count = plan.query_parts * leading * s.kv_heads * s.keys * s.width;
    if (params.dk.data != nullptr) dk = pieces.take(count);
    if (params.dv.data != nullptr) dv = pieces.take(count);
  }
  uncleared = pieces.used();
  for (int b = 0; b < 2; ++b) {
    if (params.dbias[b].data == nullptr) continue;
    extents[b] = extent_of(params.dbias[b], s);
    if (plan.kinds[b] == BiasKind::kDense && plan.summed[b])
      dense[b] = pieces.take(plan.splits * extents[b].count);
    if (plan.kinds[b] == BiasKind::kKey) by_key[b] = pieces.take(rows * plan.query_parts * s.keys);
    if (plan.kinds[b] == BiasKind::kQuery) by_query[b] = pieces.take(rows * s.queries);
  }
  floats = pieces.used();
}

int64_t BackwardSums::kv_row(const AttentionSizes& sizes, const Place& place) const {
  int64_t row = 0;
  for (int i = 0; i < sizes.num_leading; ++i) row = row * sizes.leading[i] + place.leading[i];
  return row * sizes.kv_heads + place.kv_head;
}

void clear_sums(const AttentionBackward& params, const Plan& plan, const BackwardSums& sums,
                const ParallelFor& parallel_for) {
  zero(sums.pieces.base() + sums.uncleared, sums.floats - sums.uncleared, parallel_for);
  for (int b = 0; b < 2; ++b) {
    if (params.dbias[b].data == nullptr || plan.kinds[b] != BiasKind::kDense || plan.summed[b]) continue;
    zero_bias(params.in.sizes, sums.extents[b], params.dbias[b], parallel_for);
  }
}

void finish_sums(const AttentionBackward& params, const Plan& plan, const BackwardSums& sums,
                 const ParallelFor& parallel_for) {
  const AttentionSizes& s = params.in.sizes;
  if (sums.dk) add_parts_of(params.in, plan, sums.dk, params.in.scale, params.dk, parallel_for);
  if (sums.dv) add_parts_of(params.in, plan, sums.dv, 1, params.dv, parallel_for);
  for (int b = 0; b < 2; ++b) {
    const AttentionBias& out = params.dbias[b];
    if (sums.dense[b]) add_dense(s, sums.dense[b], plan.splits, sums.extents[b], out, parallel_for);
    if (sums.by_key[b]) add_rows(s, sums.by_key[b], plan.query_parts, s.keys, out.key, out, parallel_for);
    if (sums.by_query[b]) add_rows(s, sums.by_query[b], 1, s.queries, out.query, out, parallel_for);
  }
}

}  // namespace axial::kernels::attention
