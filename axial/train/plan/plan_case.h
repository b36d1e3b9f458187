// SPDX-License-Identifier: Apache-2.0
// A small decoder's step on a mesh with every setting that memory depends on, to be planned and to be run.
// Shared by the tests of plans.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <string>
#include <vector>

#include "axial/train/plan/plan_step.h"

namespace axial::train::testing {

using parallel::MeshOptions;
using parallel::OffloadTo;
using parallel::SequenceLayout;

inline constexpr int64_t kPlanLength = 95;

/// A step on a mesh.
struct PlanCase {
  MeshOptions mesh;
  int64_t recompute = 0;
  bool keep_attention = false;
  Precision precision = Precision::kFp32;
  int64_t batch = 6;
  bool tied = false;
  int64_t head_groups = 1;
  int64_t tile_tokens = 0;
  int64_t micro_batch = 2;
  OffloadTo checkpoints = OffloadTo::kNone;
  OffloadTo optimizer = OffloadTo::kNone;
  OffloadTo parameters = OffloadTo::kNone;
  bool partition = false;
  bool learned = false;  // positions, of a table that ranks of the sequence share
  bool bits = false;     // a mask in one bit a pair
};

inline std::string moved(const char* what, OffloadTo to) {
  if (to == OffloadTo::kNone) return "";
  return fmt::format(", {} {}", what, to == OffloadTo::kHost ? "on the host" : "in a file");
}

inline std::string name_of(const PlanCase& c) {
  const MeshOptions& m = c.mesh;
  return fmt::format(
      "data {} pipe {} ring {} ulysses {} tensor {}{} | {} | {}{} | {}", m.data, m.pipe, m.ring, m.ulysses,
      m.tensor,
      fmt::format("{}{}{}{}{}", c.learned ? ", learned positions" : "", c.bits ? ", mask in bits" : "",
                  m.sequence_regions ? ", regions" : "",
                  m.stages_per_rank > 1 ? fmt::format(", {} stages a rank", m.stages_per_rank) : "",
                  m.pipe_schedule == parallel::PipeSchedule::kGPipe ? ", GPipe" : ""),
      m.zero, c.recompute,
      fmt::format("{}{}{}{}{}{}{}{}", c.keep_attention ? ", attention kept" : "",
                  c.head_groups > 1 ? fmt::format(", heads in {}", c.head_groups) : "",
                  c.tile_tokens > 0 ? fmt::format(", tiles of {}", c.tile_tokens) : "",
                  moved("checkpoints", c.checkpoints), moved("states", c.optimizer),
                  moved("parameters", c.parameters), c.partition ? ", parts" : "",
                  c.micro_batch != 2 ? fmt::format(", {} rows at a time", c.micro_batch) : ""),
      c.precision == Precision::kBf16 ? "bf16" : "fp32");
}

// Real rows of two records, with padding in some; where a ring goes round of one: it passes over pieces that
// no query sees, which a plan cannot know.
inline data::Batch rows_of(const SequenceLayout& layout, int64_t first, int64_t count) {
  const bool ring = layout.ring().num_ranks() > 1;
  std::vector<parallel::PackedRow> rows;
  data::Batch batch;
  for (int64_t r = first; r < first + count; ++r) {
    parallel::PackedRow row;
    for (int64_t i = 0; i < kPlanLength - (ring ? 0 : r % 3); ++i) row.tokens.push_back((r * 7 + i * i) % 69);
    row.record_starts = {0};
    if (!ring) row.record_starts.push_back(30 + r);
    row.sample_id = r;
    batch.num_tokens += static_cast<int64_t>(row.tokens.size());
    rows.push_back(std::move(row));
  }
  batch.tensors = layout.make_batch(rows, 3);
  batch.weight = static_cast<double>(parallel::count_labels(rows));
  return batch;
}

inline StepToPlan step_of(const PlanCase& c, int64_t world_size, const models::ModelRegistry& registry) {
  StepToPlan what;
  nlohmann::json mask = nlohmann::json::object();
  if (c.bits) mask = {{"window", 8}, {"global", {0, 40}}, {"host_tokens", kPlanLength - 1}};
  what.build = [&registry, mask, tied = c.tied, learned = c.learned] {
    return registry.at("decoder").build({{"attention_mask", mask},
                                         {"position", learned ? "learned" : "rotary"},
                                         {"vocab_size", 69},
                                         {"hidden_size", 48},
                                         {"num_layers", 4},
                                         {"num_heads", 4},
                                         {"num_kv_heads", 2},
                                         {"ffn_size", 96},
                                         {"max_positions", 96},
                                         {"tied_embeddings", tied},
                                         {"residual_dropout", 0.1}});
  };
  what.registry = &registry;
  what.train.batch = c.batch;
  what.train.micro_batch = c.micro_batch;
  what.train.precision = c.precision;
  what.train.offload_checkpoints = c.checkpoints;
  what.train.offload_optimizer = c.optimizer;
  what.train.offload_parameters = c.parameters;
  what.train.partition_activations = c.partition;
  what.train.offload_folder = std::filesystem::temp_directory_path().string();
  what.train.recompute_group = c.recompute;
  what.train.keep_attention = c.keep_attention;
  what.train.attention_head_groups = c.head_groups;
  what.train.tile_tokens = c.tile_tokens;
  what.train.schedule.warmup_steps = 0;
  what.parallel = c.mesh;
  what.world_size = world_size;
  what.row_length = kPlanLength;
  what.rows = rows_of;
  return what;
}

inline MeshOptions mesh(int64_t data, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                        bool regions = false) {
  return {data, 1, ring, ulysses, tensor, zero, regions};
}

inline MeshOptions piped(MeshOptions options, int64_t stages_per_rank = 1, bool gpipe = false) {
  options.pipe = 2;
  options.stages_per_rank = stages_per_rank;
  if (gpipe) options.pipe_schedule = parallel::PipeSchedule::kGPipe;
  return options;
}

}  // namespace axial::train::testing
