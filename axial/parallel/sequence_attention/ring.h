// SPDX-License-Identifier: Apache-2.0
// The ring axis: every rank's block of keys and values visits every rank, pieces of the result are merged by
// their row statistics; backward sends the blocks round again, and after them the sums of dK and dV home.
// Called by sequence_attention.cpp. Liu et al., 2023; the balance comes from the zigzag layout.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/sequence_attention/heads.h"
#include "axial/parallel/sequence_attention/pieces.h"

namespace axial::parallel::detail {

/// What forward and backward share.
struct RingCall {
  Sight sight;
  HeadExchange heads;
  double scale = 1;
  Communicator* ranks = nullptr;         ///< of more than one ring rank; null: one
  ops::AttentionResult* kept = nullptr;  ///< takes the result, or has it already
};

/// Of this ring rank, L positions, H own heads of one ulysses rank: q [B, L, H, D], bias [B or 1, H or 1, L,
/// N]
/// -> [B, L, H, D]. Keys and values come before their exchange, of this rank's positions and all heads, kv
/// [2, B, .., G, D]: so that their gradients are rounded once. Collective; H = 0 is fine. First order only.
at::Tensor ring_attention(const at::Tensor& q, const at::Tensor& kv, const std::optional<at::Tensor>& bias,
                          const RingCall& call);

}  // namespace axial::parallel::detail
