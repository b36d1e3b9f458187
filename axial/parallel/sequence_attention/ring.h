// SPDX-License-Identifier: Apache-2.0
// The ring axis: every rank's block of keys and values visits every rank, pieces of the result are merged by
// their row statistics; backward sends the blocks round again, and after them the sums of dK and dV home.
// Called by sequence_attention.cpp. Liu et al., 2023; the balance comes from the zigzag layout.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/sequence_attention/pieces.h"

namespace axial::parallel::detail {

/// What forward and backward share.
struct RingCall {
  Sight sight;
  double scale = 1;
  Communicator* ranks = nullptr;  ///< of more than one ring rank; null: one
};

/// q [B, L, H, D] and kv [2, B, L, G, D] of this ring rank, bias [B or 1, H or 1, L, N] -> [B, L, H, D].
/// Collective. H = 0 is fine. First order only.
at::Tensor ring_attention(const at::Tensor& q, const at::Tensor& kv, const std::optional<at::Tensor>& bias,
                          RingCall call);

}  // namespace axial::parallel::detail
