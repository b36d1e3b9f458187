// SPDX-License-Identifier: Apache-2.0
// Where the elements of a tile of 16-bit floats lie in shared memory, and which of them a lane holds in the
// fragments of mma.m16n8k16. Read by the kernels; tile_map_test.cpp counts bank conflicts and checks that the
// maps are one to one.
#pragma once

namespace axial::kernels::device {

/// Rows of kWidth elements (16 to 128, a power of two), in chunks of 8 elements, 16 bytes, that trade places:
/// eight rows that ldmatrix reads at once, and eight chunks of a row that a copy writes, lie in all 32 banks.
template <int kWidth>
struct TileMap {
  static_assert(kWidth >= 16 && (kWidth & (kWidth - 1)) == 0);
  static constexpr int kChunk = 8;
  static constexpr int kChunks = kWidth / kChunk;
  static constexpr int kRowsPerLine = kChunks >= 8 ? 1 : 8 / kChunks;  // of 128 bytes, all banks
  static constexpr int kTrading = kChunks >= 8 ? 8 : kChunks;
  /// Index of element (row, col).
  static constexpr int at(int row, int col) {
    const int chunk = (col / kChunk) ^ (row / kRowsPerLine % kTrading);
    return row * kWidth + chunk * kChunk + col % kChunk;
  }
};

/// Accumulators of m16n8: element e (0 to 3) of a lane is (row, col).
struct Accumulator {
  static constexpr int row(int lane, int e) { return lane / 4 + e / 2 * 8; }
  static constexpr int col(int lane, int e) { return lane % 4 * 2 + e % 2; }
};

/// Left fragments of m16n8k16: half h (0 or 1) of word w (0 to 3) is (row, k).
struct LeftFragment {
  static constexpr int row(int lane, int w) { return lane / 4 + w % 2 * 8; }
  static constexpr int k(int lane, int w, int h) { return lane % 4 * 2 + w / 2 * 8 + h; }
};

/// Right fragments: half h of word w (0 or 1) is (k, col).
struct RightFragment {
  static constexpr int k(int lane, int w, int h) { return lane % 4 * 2 + w * 8 + h; }
  static constexpr int col(int lane) { return lane / 4; }
};

/// Which row of a tile, and which of its columns, lane addresses for ldmatrix.x4. Words come out in the order
/// of the four matrices, lanes 0 to 7 addressing the rows of the first.
struct MatrixRows {
  int row, col;
};
/// A left fragment of rows [row, row + 16) and k [col, col + 16).
constexpr MatrixRows left_rows(int lane, int row, int col) { return {row + lane % 16, col + lane / 16 * 8}; }
/// Two right fragments (words 0, 1 and 2, 3) of columns [row, row + 16), which are rows of the tile, and k
/// [col, col + 16).
constexpr MatrixRows right_rows(int lane, int row, int col) {
  return {row + lane / 16 * 8 + lane % 8, col + lane / 8 % 2 * 8};
}
/// The same by ldmatrix.trans, where k are rows of the tile: k [row, row + 16), columns [col, col + 16).
constexpr MatrixRows turned_rows(int lane, int row, int col) {
  return {row + lane % 16, col + lane / 16 * 8};
}

}  // namespace axial::kernels::device
