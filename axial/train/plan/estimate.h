// SPDX-License-Identifier: Apache-2.0
// How long a planned step may take, from the peaks of its device and stated shares of them that are reached:
// an estimate, to put plans in order and to book days, not a promise. Called by `axial plan`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "axial/train/plan/plan.h"

namespace axial::train {

/// Shares of the device's peaks that are reached.
struct EstimateAssumptions {
  double products = 0.5;   ///< of its operations per second, by matrix products and attention
  double bandwidth = 0.7;  ///< of its memory's
  double links = 0.7;      ///< of links and network
};

/// Seconds of one step. A rank's own are those of the rank that takes longest.
struct StepEstimate {
  bool known = false;       ///< the device states peaks for this precision, and the step was counted
  double products_s = 0;    ///< all operations, recomputed ones included
  double memory_s = 0;      ///< every tensor that is made is written once and read once
  double messages_s = 0;    ///< what is sent, over the slowest way of each group
  double idle_share = 0;    ///< of the time that a pipeline's rank waits for others
  double shortest_s = 0;    ///< messages hide behind computing, or it behind them
  double longest_s = 0;     ///< nothing hides
  double tokens_per_s = 0;  ///< of the mesh, at longest_s
  double model_share = 0;  ///< of the peak, by operations that the mathematics asks for ("MFU"), at longest_s
};

/// Left out: launches, the host, optimizer and loss, waiting for slower ranks, congestion. Local.
StepEstimate estimate(const Plan& plan, const EstimateAssumptions& assumptions = {});

/// Operations of the whole mesh in a step; `recomputed` is a part of `all`.
struct PlannedFlops {
  ops::Flops all, recomputed;
};
PlannedFlops flops_of(const Plan& plan);

/// Two figures: "0.23 s", "34 ms"; from a minute on "1:05".
std::string seconds_text(double seconds);
/// Lines for the terminal; what was assumed is among them.
std::string flops_text(const Plan& plan);
std::string estimate_text(const Plan& plan, const EstimateAssumptions& assumptions);
nlohmann::json estimate_json(const StepEstimate& estimate, const EstimateAssumptions& assumptions);
nlohmann::json flops_json(const ops::Flops& flops);

}  // namespace axial::train
