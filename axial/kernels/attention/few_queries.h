// SPDX-License-Identifier: Apache-2.0
// What one thread of few_queries.cpp works in.
#pragma once

#include <limits>

#include "axial/kernels/attention/buffers.h"

namespace axial::kernels::attention {

inline constexpr int64_t kFewRows = 8;  ///< query rows that share a key/value head
inline constexpr int64_t kFewKeys = 64;

/// A query of a head, and its softmax so far.
struct FewRow {
  Place place;
  int64_t head = 0;
  int64_t query = 0;
  float largest = -std::numeric_limits<float>::infinity();
  float sum = 0;
};

/// Parts of the workspace, R = kFewRows.
struct FewBuffers {
  FewBuffers(const AttentionSizes& sizes, float* base)
      : pitch(round_up(sizes.width, kPitchStep)),
        pieces(base),
        q(pieces.take(kFewRows * pitch)),
        out(pieces.take(kFewRows * pitch)),
        scores(pieces.take(kFewRows * kFewKeys)),
        k(pieces.take(kFewKeys * pitch)),
        v(pieces.take(kFewKeys * pitch)),
        seen(reinterpret_cast<bool*>(pieces.take(kFewKeys))),
        floats(pieces.used()) {}
  int64_t pitch = 0;  ///< D padded to whole vectors
  Pieces pieces;
  float *q, *out;  ///< [R, pitch]
  float* scores;   ///< [R, kFewKeys]
  float *k, *v;    ///< [kFewKeys, pitch] of a block whose elements are not neighbours
  bool* seen;      ///< [kFewKeys] by any of the rows
  int64_t floats = 0;
};

}  // namespace axial::kernels::attention
