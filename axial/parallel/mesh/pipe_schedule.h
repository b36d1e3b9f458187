// SPDX-License-Identifier: Apache-2.0
// The orders in which a pipeline may work, as recipes name them; parallel/pipeline/order.h makes them.
#pragma once

#include <string_view>
#include <utility>

#include "axial/core/recipe/recipe.h"

namespace axial::parallel {

/// P ranks, M micro-batches, v stages per rank; backward takes twice the time of forward.
enum class PipeSchedule {
  /// All forwards, then all backwards (Huang et al., 2019): M micro-batches are held at once. A share of
  /// (P - 1) / (M + P - 1) of the time is idle.
  kGPipe,
  /// A backward as soon as there is one (Narayanan et al., 2019): rank r holds at most P - r micro-batches,
  /// in the same time. With v > 1 interleaved (Narayanan et al., 2021): (P - 1) / (v M + P - 1) idle for M a
  /// multiple of P, more sends, and more micro-batches held.
  kOneForwardOneBackward,
};

}  // namespace axial::parallel

template <>
struct axial::recipe::EnumNames<axial::parallel::PipeSchedule> {
  static constexpr std::pair<std::string_view, axial::parallel::PipeSchedule> names[] = {
      {"gpipe", axial::parallel::PipeSchedule::kGPipe},
      {"1f1b", axial::parallel::PipeSchedule::kOneForwardOneBackward}};
};
