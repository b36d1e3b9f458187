// SPDX-License-Identifier: Apache-2.0
// Two runs, of one rank and of many, compared from losses to moments. For bodies of run_ranks: what differs
// is thrown, with the place.
#pragma once

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "axial/parallel/collectives/exchange.h"
#include "axial/parallel/communicator/world.h"
#include "axial/train/trainer/trainer.h"

namespace axial::train::testing {

inline void require(bool ok, const std::string& text) {
  if (!ok) throw Error(text);
}

struct Run {
  std::vector<StepOutcome> outcomes;
  TrainResult result;
};

/// Largest difference relative to the largest value of `expected`.
inline double distance(const at::Tensor& got, const at::Tensor& expected) {
  if (expected.numel() == 0) return 0;
  const at::Tensor x = got.to(at::kDouble), y = expected.to(at::kDouble);
  const double largest = y.abs().max().item<double>();
  const double off = (x - y).abs().max().item<double>();
  return off == 0 ? 0 : off / std::max(largest, 1e-30);
}

/// Every part (or `only` one) of every parameter in the checkpoints of this step; returns the largest
/// distance.
inline double compare_checkpoints(const std::function<models::Model()>& build,
                                  const std::filesystem::path& expected, const std::filesystem::path& got,
                                  int64_t step, double tolerance, const std::string& what,
                                  const std::string& only = "") {
  std::vector<models::Model> models;
  for (const auto& folder : {expected, got}) {
    const auto index = read_checkpoint_index(folder / kCheckpointsFolder / fmt::format("step_{:08}", step));
    verify_checkpoint(index, CheckpointParts::kEverything);
    models.push_back(build());
    const at::ScalarType dtype = index.state.precision == "fp64"   ? at::kDouble
                                 : index.state.precision == "bf16" ? at::kBFloat16
                                                                   : at::kFloat;
    models.back().parameters->materialize(at::kCPU, dtype, 1);
    load_parameters(index, CheckpointParts::kEverything, *models.back().parameters);
  }
  double worst = 0;
  const auto compare = [&](const at::Tensor& y, const at::Tensor& x, const std::string& part) {
    if (!only.empty() && !part.starts_with(only)) return;
    const double off = distance(x, y);
    worst = std::max(worst, off);
    require(off <= tolerance, fmt::format("{}: {} is {} off at step {}", what, part, off, step));
  };
  for (size_t i = 0; i < models[0].parameters->rows().size(); ++i) {
    const auto& y = *models[0].parameters->rows()[i];
    const auto& x = *models[1].parameters->rows()[i];
    compare(y.value, x.value, y.spec.name);
    require(x.companions.size() == y.companions.size(), what + ": other companions");
    for (const auto& [part, tensor] : y.companions) {
      compare(tensor, x.companions.at(part), part + " of " + y.spec.name);
    }
  }
  return worst;
}

/// Losses, norms, weights and tokens of all steps, and the validation loss; returns the largest difference.
inline double compare_runs(const Run& one, const Run& many, double tolerance, const std::string& what) {
  require(one.outcomes.size() == many.outcomes.size(), what + ": another number of steps");
  double worst = 0;
  const auto compare = [&](double expected, double got, const char* name) {
    const double off = std::abs(got - expected) / std::max(std::abs(expected), 1e-30);
    worst = std::max(worst, off);
    require(off <= tolerance, fmt::format("{}: {} is {}, expected {}", what, name, got, expected));
  };
  for (size_t i = 0; i < one.outcomes.size(); ++i) {
    const StepOutcome &a = one.outcomes[i], &b = many.outcomes[i];
    require(a.weight == b.weight && a.tokens == b.tokens, what + ": other rows");
    compare(a.loss, b.loss, "loss");
    compare(a.grad_norm, b.grad_norm, "gradient norm");
  }
  if (one.result.best_validation_loss) {
    compare(*one.result.best_validation_loss, *many.result.best_validation_loss, "validation loss");
  }
  return worst;
}

/// A folder that all ranks of a test name alike; the first removes it.
inline std::filesystem::path shared_folder(parallel::World& world, parallel::Communicator& ranks,
                                           const std::string& name) {
  const std::string mine =
      std::filesystem::temp_directory_path() / fmt::format("axial_{}_{}", name, ::getpid());
  return parallel::exchange(world.rank() == 0 ? mine : "", &ranks, parallel::all_axes(ranks.mesh()))[0];
}

}  // namespace axial::train::testing
