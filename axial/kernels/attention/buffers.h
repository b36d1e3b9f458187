// SPDX-License-Identifier: Apache-2.0
// What one thread of the simd implementations works in: parts of the workspace, in floats.
#pragma once

#include "axial/kernels/attention/plan.h"

namespace axial::kernels::attention {

/// Hands out aligned pieces of a buffer; with a null base it only counts.
class Pieces {
 public:
  explicit Pieces(float* base) : base_(base) {}
  float* take(int64_t floats) {
    float* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(floats, 16);
    return piece;
  }
  float* base() const { return base_; }
  int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

/// What is added to logits. Jp keys padded to a block, Q queries of a tile.
struct TermBuffers {
  TermBuffers(const AttentionInputs& in, const Plan& plan, int64_t key_block, Pieces& pieces);
  float* stripe[2] = {};          ///< [stripe / Q, Jp, Q] packed dense biases that stay
  float* block[2] = {};           ///< [key_block, Q] of dense biases that pass
  float* key_bias = nullptr;      ///< [Jp]
  float* key_position = nullptr;  ///< [2, key_block]
  float* mask = nullptr;          ///< [key_block, Q]
  float* rows = nullptr;          ///< [Q, key_block] before it is turned
  int64_t padded_keys = 0;        ///< Jp
};

/// What matrix tiles read: pairs of bfloat16 in words (amx_inl.h). S steps of 32 columns, T panels of 16
/// columns, B blocks of 32 keys. P and dS have two parts, one behind the other.
struct TileBuffers {
  TileBuffers() = default;
  /// With a null base only `floats` counts.
  TileBuffers(int64_t width, int64_t padded_keys, bool backward, float* base);
  int64_t steps = 0, panels = 0;                        ///< S, T; 0: the products are not those of tiles
  uint32_t *k_rows = nullptr, *v_rows = nullptr;        ///< [S, Jp, 16]
  uint32_t *k_columns = nullptr, *v_columns = nullptr;  ///< [B, T, 16, 16] turned: rows are columns
  uint32_t *q = nullptr, *dout = nullptr;               ///< [S, 2, 16, 16]
  uint32_t *q_rows = nullptr, *dout_rows = nullptr;     ///< [T, 16, 16]
  uint32_t* weights = nullptr;  ///< P: forward [2, 2, 2, 16, 16] of a block of keys, backward [2, 32, 16]
  uint32_t *ds = nullptr, *ds_turned = nullptr;       ///< [2, 32, 16], [2, 2, 16, 16]
  float* turned = nullptr;                            ///< [16 T, Q]
  float *dq = nullptr, *dk = nullptr, *dv = nullptr;  ///< [16 T, Q], [Jp, pitch]: sums that are short
  int32_t* pending = nullptr;  ///< [1 + B] blocks that dq, and the blocks of dk and dv, hold
  int64_t row_step = 0;        ///< words between steps of k_rows and v_rows
  int64_t floats = 0;
};

struct ForwardBuffers {
  ForwardBuffers(const AttentionInputs& in, const Plan& plan, float* base);
  int64_t width = 0;  ///< D padded
  bool streamed = false;
  Pieces pieces;
  float *k, *v;    ///< [Jp, width]
  float *q, *out;  ///< [width, Q]
  float* scores;   ///< [key_block, Q]
  float* rows;     ///< [Q, width]
  TermBuffers terms;
  TileBuffers tiles;  ///< of amx.cpp, in a workspace of their own
  int64_t floats = 0;
};

struct BackwardBuffers {
  BackwardBuffers(const AttentionBackward& params, const Plan& plan, float* base);
  int64_t width = 0;  ///< D padded
  int64_t pitch = 0;  ///< D padded to whole vectors
  bool streamed = false;
  Pieces pieces;
  float *k, *v;                      ///< [Jp, width]
  float *dk, *dv;                    ///< [Jp, pitch]
  float *q, *dout, *dq;              ///< [width, Q]
  float *q_rows, *dout_rows, *rows;  ///< [Q, pitch]
  bool whole = false;                ///< P and dP of all keys stay until their sum is known
  float *p, *ds;                     ///< [Jp, Q] where `whole`, else [key_block, Q]; ds holds dP first
  TermBuffers terms;
  float* dstripe[2] = {};   ///< as terms.stripe, of gradients that are summed
  float* dblock = nullptr;  ///< [Q, key_block]
  float* dkey = nullptr;    ///< [Jp, lanes] sums of ds over queries, lane by lane
  TileBuffers tiles;
  int64_t floats = 0;
};

}  // namespace axial::kernels::attention
