// SPDX-License-Identifier: Apache-2.0
// The decoder over the `tensor` axis, and its table of positions over ring and ulysses.
#pragma once

#include "axial/models/common/registry.h"
#include "axial/models/decoder/config.h"

namespace axial::models {

/// Name of the learned table of positions.
inline constexpr const char* kPositionTable = "embed.positions.weight";

/// What rank `rank` of `degree` holds of every parameter, by name. Throws ValueError naming the setting
/// that does not fit: fewer query heads or feed-forward features than ranks, or a cut vocabulary that small.
std::vector<parallel::PlacementRule> decoder_placement(const DecoderConfig& config, int64_t degree,
                                                       int64_t rank,
                                                       const parallel::ParallelOptions& options);

/// ModelEntry::parallelize of the decoder.
///
/// T tokens of a micro-batch, C width, t ranks; per layer two collectives of T * C elements forward and two
/// backward: all-reduces, with sequence regions pairs of all-gather and reduce-scatter of the same bytes.
/// Key/value heads that t does not divide are replicated: one more all-reduce of their rows backward.
/// Of a learned table of positions see parallel/position_table.
void parallelize_decoder(Model& model, const parallel::Mesh& mesh, const parallel::ParallelOptions& options);

}  // namespace axial::models
