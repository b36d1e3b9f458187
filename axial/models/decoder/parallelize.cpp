// SPDX-License-Identifier: Apache-2.0
// The decoder's table of placements over `tensor` (Shoeybi et al., 2019; Korthikanti et al., 2022), and what
// ranks of a sequence hold of positions.
#include "axial/models/decoder/parallelize.h"

#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/parallel/layout/dim_layout.h"
#include "axial/parallel/tensor/heads.h"

namespace axial::models {

namespace {

using parallel::DimLayout;
using parallel::Interval;
using parallel::Placement;

void check_enough(const char* setting, int64_t size, int64_t degree) {
  AXIAL_CHECK(size >= degree, "decoder",
              "setting '{}'; expected at least the {} ranks along 'tensor', got {}", setting, degree, size);
}

// A cut stream is as long as "row_positions" says: blocks that enter or leave it read that as well.
void read_row_positions(parallel::Block& block) {
  auto& inputs = block.inputs;
  if (std::find(inputs.begin(), inputs.end(), "row_positions") == inputs.end()) {
    inputs.emplace_back("row_positions");
  }
  if (!block.tokens) return;
  block.tokens->reads["row_positions"] = parallel::Positions::kShared;
  block.tokens->cut_stream = true;
}

// Blocks that look up positions read where records begin too.
void cut_position_table(Model& model, const parallel::Mesh& mesh, int64_t row_length) {
  if (row_length == 0 || !model.parameters->contains(kPositionTable)) return;
  cut_positions(model.parameters->at(kPositionTable), *model.position_cut, mesh, row_length);
  if (!model.position_cut->layouts) return;
  for (parallel::Block& block : model.trunk) {
    const auto& names = block.parameters;
    if (std::find(names.begin(), names.end(), kPositionTable) != names.end()) {
      block.inputs.emplace_back("later_records");
    }
  }
}

void cut_over_tensor(Model& model, const parallel::Mesh& mesh, const parallel::ParallelOptions& options) {
  const int64_t degree = parallel::tensor_degree(mesh);
  if (degree == 1) return;
  const DecoderConfig config = read_decoder_config(model.config);
  place_parameters(*model.parameters,
                   decoder_placement(config, degree, mesh.coordinate(parallel::kTensorAxis), options),
                   options);
  *model.cut = {degree, options.sequence_regions};
  if (!options.sequence_regions) return;
  for (parallel::Block& block : model.trunk) read_row_positions(block);
  for (auto& [name, block] : model.heads) read_row_positions(block);
}

}  // namespace

std::vector<parallel::PlacementRule> decoder_placement(const DecoderConfig& config, int64_t degree,
                                                       int64_t rank,
                                                       const parallel::ParallelOptions& options) {
  const bool cut_vocabulary = config.vocab_size >= options.replicate_vocabulary_below;
  check_enough("num_heads", config.num_heads, degree);
  check_enough("ffn_size", config.ffn_size, degree);
  if (cut_vocabulary) check_enough("vocab_size", config.vocab_size, degree);

  const parallel::HeadCounts counts{config.num_heads, config.num_kv_heads, config.head_dim};
  const auto heads = parallel::RankHeads::of_rank(counts, degree, rank);
  const int64_t queries = heads.num_query() * config.head_dim;
  const int64_t keys_values = 2 * heads.key_value.size() * config.head_dim;
  std::vector<parallel::SharedRows> shared;
  if (heads.replicates_key_value(counts)) shared = {{queries, queries + keys_values, degree}};
  const Interval ffn = DimLayout::contiguous(config.ffn_size, degree).owned(rank)[0];
  const Interval up{config.ffn_size + ffn.begin, config.ffn_size + ffn.end};

  const Placement stream = Placement::stream();
  const Placement tokens =
      cut_vocabulary ? Placement::column(DimLayout::contiguous(config.vocab_size, degree).owned(rank))
                     : stream;
  // Biases of row products are applied to the stream, once, behind the sum over ranks.
  return {
      {"embed.tokens.weight", tokens},
      {"embed.*", stream},
      {"layers.*_norm.*", stream},
      {"layers.*.attention.qkv.*", Placement::column(heads.projection_rows(counts), shared)},
      {"layers.*.attention.out.weight", Placement::row({heads.output_columns(counts)})},
      {"layers.*.attention.out.bias", stream},
      {"layers.*.ffn.gate_up.*", Placement::column({ffn, up})},
      {"layers.*.ffn.up.*", Placement::column({ffn})},
      {"layers.*.ffn.down.weight", Placement::row({ffn})},
      {"layers.*.ffn.down.bias", stream},
      {"final_norm.*", stream},
      {"head.*", tokens},
  };
}

void parallelize_decoder(Model& model, const parallel::Mesh& mesh, const parallel::ParallelOptions& options) {
  cut_over_tensor(model, mesh, options);
  cut_position_table(model, mesh, options.row_length);
}

}  // namespace axial::models
