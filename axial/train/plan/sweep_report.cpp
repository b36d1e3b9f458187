// SPDX-License-Identifier: Apache-2.0
// A sweep as a table and in JSON.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "axial/core/text/table.h"
#include "axial/core/text/text.h"
#include "axial/train/plan/sweep.h"
#include "axial/train/plan/switches.h"

namespace axial::train {

namespace {

std::string mesh_text(const parallel::MeshOptions& m) {
  std::string text;
  for (const auto& [name, degree] : {std::pair{"data", m.data},
                                     {"pipe", m.pipe},
                                     {"ring", m.ring},
                                     {"ulysses", m.ulysses},
                                     {"tensor", m.tensor}}) {
    if (degree > 1) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, degree);
  }
  return text.empty() ? "one rank" : text;
}

// Of the switches that do something there, without the names of their sections.
std::string switches_text(const RunRecipe& recipe) {
  std::string text;
  for (const Switch& s : memory_switches()) {
    if (!s.swept || s.values(recipe).empty()) continue;
    const std::string setting = s.with(s.get(recipe));
    text += fmt::format("{}{}", text.empty() ? "" : " ", setting.substr(setting.find('.') + 1));
  }
  return text;
}

std::string time_text(const StepEstimate& e) {
  return e.known ? fmt::format("{} to {}", seconds_text(e.shortest_s), seconds_text(e.longest_s)) : "?";
}

}  // namespace

std::string sweep_text(const SweepResult& result, const SweepOptions& options) {
  std::string text;
  if (!result.best.empty()) {
    TextTable table({{"mesh"},
                     {"settings"},
                     {"step, estimated", Align::kRight},
                     {"tokens/s", Align::kRight},
                     {"needed", Align::kRight},
                     {"left", Align::kRight}});
    for (const SweepEntry& e : result.best) {
      table.add_row({mesh_text(e.recipe.parallel), switches_text(e.recipe), time_text(e.estimate),
                     e.estimate.known ? human_count(e.estimate.tokens_per_s) : "?",
                     human_bytes(e.needed_bytes), human_bytes(e.spare_bytes)});
    }
    const EstimateAssumptions& a = options.assumptions;
    text += table.render();
    text += fmt::format(
        "\nestimates: messages hidden or not (sorted by the latter), at {:.0f} % of peak operations, {:.0f} "
        "% "
        "of memory's bandwidth,\n{:.0f} % of links and network\n\nthe first: {}\n",
        100 * a.products, 100 * a.bandwidth, 100 * a.links,
        fmt::format("--set {}", fmt::join(result.best.front().settings, " --set ")));
  }
  text += fmt::format("\n{} meshes: {} fit, {} were not tried (--sweep-limit), {} plans\n", result.meshes,
                      result.fitting, result.left_out, result.planned);
  for (const SweepRefusal& r : result.refused) {
    text += fmt::format("{:6} x {}{}\n", r.count, r.reason,
                        r.least_missing_bytes > 0
                            ? fmt::format("; the nearest lacks {}", human_bytes(r.least_missing_bytes))
                            : "");
  }
  return text;
}

nlohmann::json sweep_json(const SweepResult& result, const SweepOptions& options) {
  nlohmann::json best = nlohmann::json::array(), refused = nlohmann::json::array();
  for (const SweepEntry& e : result.best) {
    best.push_back({{"settings", e.settings},
                    {"estimate", estimate_json(e.estimate, options.assumptions)},
                    {"needed_bytes", e.needed_bytes},
                    {"spare_bytes", e.spare_bytes}});
  }
  for (const SweepRefusal& r : result.refused) {
    refused.push_back(
        {{"reason", r.reason}, {"count", r.count}, {"least_missing_bytes", r.least_missing_bytes}});
  }
  return {{"best", best},
          {"refused", refused},
          {"meshes", result.meshes},
          {"fitting", result.fitting},
          {"left_out", result.left_out},
          {"planned", result.planned}};
}

}  // namespace axial::train
