// SPDX-License-Identifier: Apache-2.0
// Sizes of buffers.h.
#include "axial/kernels/attention/buffers.h"

namespace axial::kernels::attention {

TermBuffers::TermBuffers(const AttentionInputs& in, const Plan& plan, int64_t key_block, Pieces& pieces)
    : padded_keys(round_up(in.sizes.keys, key_block)) {
  bool by_key = false, dense = false;
  for (int b = 0; b < 2; ++b) {
    const BiasKind kind = plan.kinds[b];
    by_key = by_key || kind == BiasKind::kKey;
    if (kind != BiasKind::kDense) continue;
    dense = true;
    if (plan.stripe > 0) stripe[b] = pieces.take(plan.stripe * padded_keys);
    if (plan.stripe == 0) block[b] = pieces.take(key_block * kMaxTile);
  }
  if (by_key) key_bias = pieces.take(padded_keys);
  if (in.slopes != nullptr) key_position = pieces.take(2 * key_block);
  if (in.mask.query_block > 0) mask = pieces.take(key_block * kMaxTile);
  if (dense) rows = pieces.take(key_block * kMaxTile);
}

namespace {

constexpr int64_t kTile = 256;  // words

uint32_t* words(Pieces& pieces, int64_t count) { return reinterpret_cast<uint32_t*>(pieces.take(count)); }

}  // namespace

TileBuffers::TileBuffers(int64_t width, int64_t padded_keys, bool backward, float* base) {
  Pieces pieces(base);
  steps = ceil_div(width, 32);
  panels = ceil_div(width, 16);
  row_step = padded_keys * 16;
  const int64_t columns = padded_keys / 32 * panels * kTile;
  k_rows = words(pieces, steps * row_step);
  q = words(pieces, steps * 2 * kTile);
  turned = pieces.take(panels * 16 * kMaxTile);
  weights = words(pieces, (backward ? 4 : 8) * kTile);
  if (!backward) {
    v_columns = words(pieces, columns);
    floats = pieces.used();
    return;
  }
  v_rows = words(pieces, steps * row_step);
  k_columns = words(pieces, columns);
  dout = words(pieces, steps * 2 * kTile);
  q_rows = words(pieces, panels * kTile);
  dout_rows = words(pieces, panels * kTile);
  ds = words(pieces, 4 * kTile);
  ds_turned = words(pieces, 4 * kTile);
  dq = pieces.take(panels * 16 * kMaxTile);
  dk = pieces.take(padded_keys * panels * 16);
  dv = pieces.take(padded_keys * panels * 16);
  pending = reinterpret_cast<int32_t*>(pieces.take(1 + padded_keys / 32));
  floats = pieces.used();
}

ForwardBuffers::ForwardBuffers(const AttentionInputs& in, const Plan& plan, float* base)
    : width(round_up(in.sizes.width, kWidthStep)),
      streamed(plan.streamed),
      pieces(base),
      k(pieces.take(round_up(in.sizes.keys, kForwardKeys) * width)),
      v(pieces.take(round_up(in.sizes.keys, kForwardKeys) * width)),
      q(pieces.take(width * kMaxTile)),
      out(pieces.take(width * kMaxTile)),
      scores(pieces.take(kForwardKeys * kMaxTile)),
      rows(pieces.take(width * kMaxTile)),
      terms(in, plan, kForwardKeys, pieces),
      floats(pieces.used()) {}

BackwardBuffers::BackwardBuffers(const AttentionBackward& params, const Plan& plan, float* base)
    : width(round_up(params.in.sizes.width, kWidthStep)),
      pitch(round_up(width, kPitchStep)),
      streamed(plan.streamed),
      pieces(base),
      k(pieces.take(round_up(params.in.sizes.keys, kBackwardKeys) * width)),
      v(pieces.take(round_up(params.in.sizes.keys, kBackwardKeys) * width)),
      dk(pieces.take(round_up(params.in.sizes.keys, kBackwardKeys) * pitch)),
      dv(pieces.take(round_up(params.in.sizes.keys, kBackwardKeys) * pitch)),
      q(pieces.take(width * kMaxTile)),
      dout(pieces.take(width * kMaxTile)),
      dq(pieces.take(width * kMaxTile)),
      q_rows(pieces.take(pitch * kMaxTile)),
      dout_rows(pieces.take(pitch * kMaxTile)),
      rows(pieces.take(pitch * kMaxTile)),
      whole(!params.merged && params.in.sizes.keys <= kExactKeys),
      p(pieces.take((whole ? round_up(params.in.sizes.keys, kBackwardKeys) : kBackwardKeys) * kMaxTile)),
      ds(pieces.take((whole ? round_up(params.in.sizes.keys, kBackwardKeys) : kBackwardKeys) * kMaxTile)),
      terms(params.in, plan, kBackwardKeys, pieces) {
  for (int b = 0; b < 2; ++b) {
    if (params.dbias[b].data == nullptr) continue;
    const BiasKind kind = plan.kinds[b];
    if (kind == BiasKind::kDense && plan.summed[b]) dstripe[b] = pieces.take(plan.stripe * terms.padded_keys);
    if (kind == BiasKind::kDense && !plan.summed[b] && !dblock)
      dblock = pieces.take(kBackwardKeys * kMaxTile);
    if (kind == BiasKind::kKey && !dkey) dkey = pieces.take(terms.padded_keys * kMaxTile);
  }
  floats = pieces.used();
}

}  // namespace axial::kernels::attention
