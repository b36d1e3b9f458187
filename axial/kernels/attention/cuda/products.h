// SPDX-License-Identifier: Apache-2.0
// Tiles of attention's CUDA kernels: loading them, and their products on matrix units. A warp has 16 rows of
// a tile of accumulators. Templates over the block (device/cuda_block.cuh, testing/emulated_block.h), for the
// kernels of this folder.
#pragma once

#include "axial/kernels/attention/cuda/terms.h"

namespace axial::kernels::attention::cuda {

/// Largest value and sum of the four lanes that share a row of accumulators.
template <class Block>
AXIAL_DEVICE float largest_of_row(Block& block, float value) {
  value = device::largest(value, block.shuffle_xor(value, 1));
  return device::largest(value, block.shuffle_xor(value, 2));
}
template <class Block>
AXIAL_DEVICE float sum_of_row(Block& block, float value) {
  value += block.shuffle_xor(value, 1);
  return value + block.shuffle_xor(value, 2);
}

/// Where a head of one leading element begins in a tensor, in elements.
AXIAL_DEVICE int64_t head_offset(const AttentionTensor& t, const AttentionSizes& s, const Place& place,
                                 int64_t head) {
  return leading_offset(t.leading, place, s.num_leading) + head * t.head;
}

/// A matrix [rows, width] of 16-bit floats in memory of the device.
struct Rows {
  const uint16_t* data;
  int64_t row, col;
  int width;
  bool in_chunks;  // 16 bytes of a row may be read at once
};

/// `head`: where the head begins, in elements; `first`: the first row.
AXIAL_DEVICE Rows rows_of(const AttentionTensor& t, const AttentionSizes& s, int64_t head, int64_t first) {
  const uint16_t* data = static_cast<const uint16_t*>(t.data) + head + first * t.row;
  const bool aligned = (reinterpret_cast<uintptr_t>(data) & 15) == 0 && (t.row & 7) == 0;
  return {data, t.row, t.col, static_cast<int>(s.width), aligned && t.col == 1 && (s.width & 7) == 0};
}

/// Rows [0, kRows) into a tile of kWidth columns, zeros beyond the width, beyond `count` rows and where
/// `wanted` has no bit. On its way until wait().
template <int kRows, int kWidth, class Block>
AXIAL_DEVICE void load_rows(Block& block, typename Block::template Array<uint16_t> tile, const Rows& from,
                            int64_t count, uint64_t wanted) {
  using Map = device::TileMap<kWidth>;
  for (int i = block.thread(); i < kRows * Map::kChunks; i += Block::threads()) {
    const int row = i / Map::kChunks, col = i % Map::kChunks * Map::kChunk;
    const bool valid = row < count && (wanted >> row & 1) != 0;
    const uint16_t* at = from.data + row * from.row + col * from.col;
    if (from.in_chunks) {
      const bool inside = valid && col < from.width;
      block.copy_chunk(tile, Map::at(row, col), inside ? at : from.data, inside);
      continue;
    }
    uint32_t words[4];
    AXIAL_UNROLL
    for (int w = 0; w < 4; ++w) {
      uint32_t word = 0;
      AXIAL_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int c = 2 * w + h;
        if (valid && col + c < from.width) word |= static_cast<uint32_t>(at[c * from.col]) << (16 * h);
      }
      words[w] = word;
    }
    block.store_chunk(tile, Map::at(row, col), words);
  }
}

template <class Block>
using Halves = typename Block::template Array<uint16_t>;

template <int kColumns>
AXIAL_DEVICE void clear(float (&s)[kColumns][4]) {
  AXIAL_UNROLL
  for (int n = 0; n < kColumns; ++n) {
    AXIAL_UNROLL
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
  }
}

/// s [16 rows of the warp, 8 kColumns] = left right^T over the width; rows of `right` are columns of s.
template <class T, int kWidth, int kColumns, class Block>
AXIAL_DEVICE void multiply_rows(Block& block, float (&s)[kColumns][4], Halves<Block> left,
                                Halves<Block> right) {
  using Map = device::TileMap<kWidth>;
  clear(s);
  AXIAL_UNROLL
  for (int step = 0; step < kWidth / 16; ++step) {
    const auto rows = device::left_rows(block.lane(), block.warp() * 16, step * 16);
    uint32_t a[4];
    block.template load_matrices<false>(a, left, Map::at(rows.row, rows.col));
    AXIAL_UNROLL
    for (int n = 0; n < kColumns / 2; ++n) {
      const auto at = device::right_rows(block.lane(), n * 16, step * 16);
      uint32_t b[4];
      block.template load_matrices<false>(b, right, Map::at(at.row, at.col));
      block.template multiply<T>(s[2 * n], a, b[0], b[1]);
      block.template multiply<T>(s[2 * n + 1], a, b[2], b[3]);
    }
  }
}

/// sum [16 rows of the warp, kWidth] += p tile; rows of the tile are columns of p, which is rounded to T.
/// Accumulators of p are left fragments as they lie.
template <class T, int kWidth, int kColumns, class Block>
AXIAL_DEVICE void multiply_tile(Block& block, float (&sum)[kWidth / 8][4], const float (&p)[kColumns][4],
                                Halves<Block> tile) {
  using Map = device::TileMap<kWidth>;
  AXIAL_UNROLL
  for (int step = 0; step < kColumns / 2; ++step) {
    uint32_t a[4];
    AXIAL_UNROLL
    for (int w = 0; w < 4; ++w) {
      const float* pair = p[2 * step + w / 2] + w % 2 * 2;
      a[w] = device::pack_pair<T>(pair[0], pair[1]);
    }
    AXIAL_UNROLL
    for (int n = 0; n < kWidth / 16; ++n) {
      const auto at = device::turned_rows(block.lane(), step * 16, n * 16);
      uint32_t b[4];
      block.template load_matrices<true>(b, tile, Map::at(at.row, at.col));
      block.template multiply<T>(sum[2 * n], a, b[0], b[1]);
      block.template multiply<T>(sum[2 * n + 1], a, b[2], b[3]);
    }
  }
}

/// Rows of accumulators, times `factor`, to rows [first, first + count) of a head at `head`.
template <int kWidth, class Block>
AXIAL_DEVICE void write_rows(Block& block, const float (&sum)[kWidth / 8][4], const float (&factor)[2],
                             const AttentionTensor& to, int64_t head, int64_t first, int count,
                             int64_t width) {
  AXIAL_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = block.warp() * 16 + block.lane() / 4 + 8 * r;
    if (row >= count) continue;
    AXIAL_UNROLL
    for (int n = 0; n < kWidth / 8; ++n) {
      AXIAL_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int col = n * 8 + device::Accumulator::col(block.lane(), c);
        if (col >= width) continue;
        const float value = factor[r] == 0 ? 0.0f : sum[n][2 * r + c] * factor[r];
        device::store_from_float(to.data, to.dtype, head + (first + row) * to.row + col * to.col, value);
      }
    }
  }
}

}  // namespace axial::kernels::attention::cuda
