// SPDX-License-Identifier: Apache-2.0
// Ranges of the training options.
#include "axial/train/trainer/options.h"

#include <cmath>

#include "axial/core/check/check.h"

namespace axial::train {
namespace {

constexpr int64_t kMostThreads = 4096;  // more only end in errors of the thread library
constexpr int64_t kMostRows = 1 << 20;  // of a step, which are read before it

}  // namespace

at::ScalarType scalar_type_of(Precision precision) {
  switch (precision) {
    case Precision::kFp64:
      return at::kDouble;
    case Precision::kFp32:
      return at::kFloat;
    case Precision::kBf16:
      return at::kBFloat16;
    case Precision::kFp16:
      return at::kHalf;
  }
  fail("train", "unknown precision");
}

void TrainOptions::validate() const {
  const auto at_least = [](std::string_view name, int64_t value, int64_t least) {
    AXIAL_CHECK(value >= least, "train", "{}; expected at least {}, got {}", name, least, value);
  };
  at_least("steps", steps, 1);
  at_least("batch", batch, 1);
  at_least("micro_batch", micro_batch, 1);
  at_least("seed", seed, 0);
  at_least("threads", threads, 0);
  at_least("recompute_group", recompute_group, 0);
  at_least("attention_head_groups", attention_head_groups, 1);
  at_least("tile_tokens", tile_tokens, 0);
  AXIAL_CHECK(!keep_attention || recompute_group > 0, "train",
              "keep_attention; expected false without recompute_group, where all is kept");
  AXIAL_CHECK(!partition_activations || recompute_group > 0, "train",
              "partition_activations; expected false without recompute_group, where nothing waits");
  AXIAL_CHECK(offload_checkpoints == parallel::OffloadTo::kNone || recompute_group > 0, "train",
              "offload_checkpoints; expected none without recompute_group, where nothing waits");
  at_least("validate_every", validate_every, 0);
  at_least("validate_rows", validate_rows, 0);
  at_least("checkpoint_every", checkpoint_every, 0);
  at_least("keep_last", keep_last, 1);
  at_least("log_every", log_every, 1);
  const auto at_most = [](std::string_view name, int64_t value, int64_t most) {
    AXIAL_CHECK(value <= most, "train", "{}; expected at most {}, got {}", name, most, value);
  };
  at_most("threads", threads, kMostThreads);
  at_most("batch", batch, kMostRows);
  AXIAL_CHECK(micro_batch <= batch, "train", "micro_batch; expected at most the batch of {} rows, got {}",
              batch, micro_batch);
  AXIAL_CHECK(std::isfinite(clip_norm) && clip_norm >= 0, "train", "clip_norm; expected 0 or more, got {}",
              clip_norm);
}

}  // namespace axial::train
