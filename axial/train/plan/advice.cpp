// SPDX-License-Identifier: Apache-2.0
// A plan per value, sorted by what it saves.
#include "axial/train/plan/advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/text/table.h"
#include "axial/core/text/text.h"
#include "axial/train/plan/switches.h"

namespace axial::train {

namespace {

struct Trial {
  Switch of;
  int64_t value = 0;
};

// Values behind the recipe's own in the order of the table; all of them where the table lacks that one.
std::vector<Trial> trials_of(const RunRecipe& recipe) {
  std::vector<Trial> trials;
  for (const Switch& s : memory_switches()) {
    const std::vector<int64_t> values = s.values(recipe);
    const auto own = std::find(values.begin(), values.end(), s.get(recipe));
    for (auto value = own == values.end() ? values.begin() : own + 1; value != values.end(); ++value) {
      if (*value != s.get(recipe)) trials.push_back({s, *value});
    }
  }
  return trials;
}

// Saves nothing where the model or the mesh refuses it.
Advice try_change(const std::vector<Trial>& trials, RunRecipe recipe, const Plan& before,
                  const Planning& planning) {
  Advice out;
  for (const Trial& trial : trials) {
    trial.of.set(recipe, trial.value);
    if (!out.change.empty()) out.change += ' ';
    out.change += trial.of.with(trial.value);
  }
  try {
    const Plan after = planning(recipe);
    out.saved_bytes = before.largest().needed_bytes() - after.largest().needed_bytes();
    out.spare_bytes = after.spare_bytes();
    out.fits = after.fits();
  } catch (const ValueError&) {
  }
  return out;
}

}  // namespace

std::vector<Advice> advise(const RunRecipe& given, const Plan& plan, const Planning& planning,
                           const std::function<void(int64_t done, int64_t total)>& on_plan) {
  RunRecipe recipe = given;
  recipe.parallel.data = parallel::make_mesh(recipe.parallel, plan.world_size, 0).degree("data");
  const std::vector<Trial> trials = trials_of(recipe);
  const auto total = static_cast<int64_t>(trials.size()) + 1;
  std::vector<Advice> out;
  std::vector<std::pair<Trial, int64_t>> best;  // of each switch, and what it saves
  for (size_t i = 0; i < trials.size(); ++i) {
    const Trial& trial = trials[i];
    const Advice advice = try_change({trial}, recipe, plan, planning);
    if (advice.saved_bytes > 0) {
      out.push_back(advice);
      if (best.empty() || best.back().first.of.key != trial.of.key) best.emplace_back(trial, 0);
      if (advice.saved_bytes > best.back().second) best.back() = {trial, advice.saved_bytes};
    }
    if (on_plan) on_plan(static_cast<int64_t>(i) + 1, total);
  }
  std::stable_sort(out.begin(), out.end(), [](const Advice& a, const Advice& b) {
    return std::pair(!a.fits, -a.saved_bytes) < std::pair(!b.fits, -b.saved_bytes);
  });
  if (best.size() > 1 && !out.front().fits) {
    std::vector<Trial> all;
    for (const auto& [trial, saved] : best) all.push_back(trial);
    const Advice advice = try_change(all, recipe, plan, planning);
    if (advice.saved_bytes > out.front().saved_bytes) out.push_back(advice);
  }
  if (on_plan) on_plan(total, total);
  return out;
}

std::string advice_text(const std::vector<Advice>& advice) {
  if (advice.empty()) {
    return "no setting that only costs time makes it smaller: more devices (--sweep tries meshes), shorter "
           "rows or a smaller model would\n";
  }
  TextTable table({{"what to change (--set)"}, {"saves", Align::kRight}, {"then"}});
  for (const Advice& a : advice) {
    table.add_row({a.change, human_bytes(a.saved_bytes),
                   a.fits ? fmt::format("fits, {} left", human_bytes(a.spare_bytes))
                          : fmt::format("{} missing", human_bytes(std::max<int64_t>(-a.spare_bytes, 0)))});
  }
  std::string text = fmt::format("one change at a time, largest effect first:\n\n{}", table.render());
  if (std::none_of(advice.begin(), advice.end(), [](const Advice& a) { return a.fits; })) {
    text +=
        "\nnone of these is enough: more devices or another mesh (--sweep), shorter rows or a smaller "
        "model\n";
  }
  return text;
}

nlohmann::json advice_json(const std::vector<Advice>& advice) {
  nlohmann::json out = nlohmann::json::array();
  for (const Advice& a : advice) {
    out.push_back({{"change", a.change},
                   {"saved_bytes", a.saved_bytes},
                   {"spare_bytes", a.spare_bytes},
                   {"fits", a.fits}});
  }
  return out;
}

}  // namespace axial::train
