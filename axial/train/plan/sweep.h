// SPDX-License-Identifier: Apache-2.0
// Which meshes and settings of memory fit a recipe on so many devices, and which of them may be fastest.
// Called by `axial plan --sweep`.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "axial/train/plan/advice.h"
#include "axial/train/plan/estimate.h"

namespace axial::train {

struct SweepOptions {
  int64_t limit = 60;  ///< plans that are made; what is ruled out without one is not counted
  int64_t best = 8;    ///< meshes whose settings are tried one by one, and results that are kept
  EstimateAssumptions assumptions;
  /// Told before every plan: how many were made, of at most how many, and of what the next one is.
  std::function<void(int64_t done, int64_t total, const std::string& next)> on_plan;
  Planning planning;  ///< plan_recipe
};

/// A recipe that fits.
struct SweepEntry {
  RunRecipe recipe;
  std::vector<std::string> settings;  ///< as --set takes them
  StepEstimate estimate;
  int64_t needed_bytes = 0;
  int64_t spare_bytes = 0;
};

/// Meshes that were ruled out for one reason.
struct SweepRefusal {
  std::string reason;
  int64_t count = 0;
  int64_t least_missing_bytes = 0;  ///< of those that do not fit: of the nearest
};

struct SweepResult {
  std::vector<SweepEntry> best;  ///< by longest_s of the estimate, then by what is left
  std::vector<SweepRefusal> refused;
  int64_t meshes = 0;    ///< ways to part the devices
  int64_t planned = 0;   ///< plans that were made
  int64_t fitting = 0;   ///< meshes that fit
  int64_t left_out = 0;  ///< meshes that the limit left untried
};

/// Degrees of data, pipe, ring, ulysses and tensor whose product is the number of devices; sequence regions
/// wherever tensor is cut, everything else as given.
std::vector<parallel::MeshOptions> meshes_of(int64_t world_size, const parallel::MeshOptions& rest);

/// Every mesh with all switches (switches.h) at least memory; of those that fit the best, by their estimates,
/// with one switch after the other at most speed that still fits and is faster by the estimate. Without a
/// plan is ruled out: fewer rows or tokens than ranks, what the model refuses, and what weights, gradients
/// and moments alone overfill. Meshes that keep tensor and ulysses inside of a machine come first.
SweepResult sweep(const RunRecipe& recipe, const models::ModelRegistry& registry, int64_t world_size,
                  const Device& device, const SweepOptions& options);

std::string sweep_text(const SweepResult& result, const SweepOptions& options);
nlohmann::json sweep_json(const SweepResult& result, const SweepOptions& options);

}  // namespace axial::train
