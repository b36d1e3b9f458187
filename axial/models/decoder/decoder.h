// SPDX-License-Identifier: Apache-2.0
// The causal decoder as blocks, and its entry in the registry.
#pragma once

#include "axial/models/common/registry.h"
#include "axial/models/decoder/config.h"

namespace axial::models {

/// Build a decoder; `config` must be complete (read_decoder_config).
///
/// B rows, L positions, C width, V tokens. Blocks of the trunk: "embed" (tokens [B, L], learned: positions
/// [B, L], -> hidden [B, L, C]), "layer.<i>", "final_norm". Heads: "loss" (hidden, labels [B, L] -> loss_sum
/// [], loss_weight []), "log_likelihood" (hidden, labels -> log_likelihood [B, L]), "logits" (hidden ->
/// logits [B, L, V]). Blocks list only the batch tensors they read. While decoding, call the blocks with the
/// new tokens [B, N] and their positions; the caller advances lengths afterwards.
Model build_decoder(const DecoderConfig& config);

/// Registers "decoder".
void register_decoder(ModelRegistry& registry);

}  // namespace axial::models
