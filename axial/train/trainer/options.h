// SPDX-License-Identifier: Apache-2.0
// The `train:` section of a recipe.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "axial/core/recipe/recipe.h"
#include "axial/optim/adamw/adamw.h"
#include "axial/optim/loss_scaler/loss_scaler.h"
#include "axial/optim/schedule/schedule.h"
#include "axial/parallel/offload/offload_to.h"

namespace axial::train {

/// Type of weights and activations. 16-bit types keep fp32 master weights; gradients are summed in fp32.
enum class Precision { kFp64, kFp32, kBf16, kFp16 };

at::ScalarType scalar_type_of(Precision precision);

/// How a model is trained. Rows are what the data section packs: `batch` rows make one step.
struct TrainOptions {
  int64_t steps = 1000;
  int64_t batch = 16;
  int64_t micro_batch = 4;
  Precision precision = Precision::kFp32;
  int64_t seed = 0;
  int64_t threads = 0;
  int64_t recompute_group = 0;
  bool keep_attention = false;
  parallel::OffloadTo offload_checkpoints = parallel::OffloadTo::kNone;
  bool partition_activations = false;
  parallel::OffloadTo offload_optimizer = parallel::OffloadTo::kNone;
  parallel::OffloadTo offload_parameters = parallel::OffloadTo::kNone;
  std::string offload_folder;
  int64_t attention_head_groups = 1;
  int64_t tile_tokens = 0;
  bool shard_positions = true;
  int64_t validate_every = 100;
  int64_t validate_rows = 0;
  int64_t checkpoint_every = 100;
  int64_t keep_last = 2;
  int64_t log_every = 10;
  double clip_norm = 1.0;
  optim::AdamWOptions optimizer;
  optim::ScheduleOptions schedule;
  optim::LossScalerOptions loss_scale;

  template <class V>
  void fields(V& v) {
    v("steps", steps, "optimizer steps of the whole run");
    v("batch", batch, "rows per step");
    v("micro_batch", micro_batch, "rows in memory at a time; gradients of a step's micro-batches are summed");
    v("precision", precision, "of weights and activations; fp16 scales its loss");
    v("seed", seed, "of initial weights, dropout and data order");
    v("threads", threads, "CPU threads, 0: all; equal numbers give bitwise equal runs");
    v("recompute_group", recompute_group,
      "blocks recomputed together in backward to save memory; 0: keep all");
    v("keep_attention", keep_attention, "recomputed blocks keep what attention gave: more memory, less time");
    v("offload_checkpoints", offload_checkpoints,
      "where inputs of recomputed blocks wait for backward: none (the device), host or file");
    v("partition_activations", partition_activations,
      "tensor ranks keep a part each of the inputs of recomputed blocks; with sequence_regions they do "
      "anyway");
    v("offload_optimizer", offload_optimizer,
      "where moments and master weights are: none (the device), host or file; the update then runs on the "
      "host");
    v("offload_parameters", offload_parameters,
      "where a rank's parts of weights are between their uses, with parallel.zero 3: none (the device), host "
      "or file; gradients are then summed on the host");
    v("offload_folder", offload_folder, "of such files, on a fast disk; \"\": the run's folder");
    v("attention_head_groups", attention_head_groups,
      "attention takes its heads in so many groups, one after the other: less memory, more calls");
    v("tile_tokens", tile_tokens,
      "token-wise parts of blocks (feed-forward, norms, loss) run over so many positions at a time: less "
      "memory, more work; weight gradients are summed tile by tile; 0: over all at once");
    v("shard_positions", shard_positions,
      "ranks of ring and ulysses hold the rows of a learned table of positions that they hold of a sequence; "
      "false: all rows");
    v("validate_every", validate_every, "steps between validations; 0: only at the end");
    v("validate_rows", validate_rows, "validation rows used, evenly spread; 0: all");
    v("checkpoint_every", checkpoint_every,
      "steps between checkpoints; 0: only at the end and for a new best");
    v("keep_last", keep_last, "newest checkpoints kept, besides the best");
    v("log_every", log_every, "steps between lines of metrics.jsonl");
    v("clip_norm", clip_norm, "gradients are scaled down to this norm; 0: never");
    v("optimizer", optimizer, "AdamW");
    v("schedule", schedule, "learning rate over the steps");
    v("loss_scale", loss_scale, "of fp16");
  }
  void validate() const;  ///< throws ValueError
  /// Of models::parallelize, for rows of this length.
  int64_t sharded_row_length(int64_t row_length) const { return shard_positions ? row_length : 0; }
};

}  // namespace axial::train

template <>
struct axial::recipe::EnumNames<axial::train::Precision> {
  static constexpr std::pair<std::string_view, axial::train::Precision> names[] = {
      {"fp64", axial::train::Precision::kFp64},
      {"fp32", axial::train::Precision::kFp32},
      {"bf16", axial::train::Precision::kBf16},
      {"fp16", axial::train::Precision::kFp16}};
};
