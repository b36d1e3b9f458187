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
