// SPDX-License-Identifier: Apache-2.0
// The table, and members of the recipe's sections as numbers.
#include "axial/train/plan/switches.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <type_traits>
#include <utility>

namespace axial::train {

namespace {

using Values = std::function<std::vector<int64_t>(const RunRecipe&)>;

template <class T>
std::string text_of(int64_t value) {
  if constexpr (std::is_same_v<T, bool>) return value != 0 ? "true" : "false";
  if constexpr (std::is_enum_v<T>) {
    for (const auto& [name, choice] : recipe::EnumNames<T>::names) {
      if (choice == static_cast<T>(value)) return std::string(name);
    }
  }
  return fmt::format("{}", value);
}

template <class Section, class T>
Switch entry(std::string key, Section RunRecipe::*section, T Section::*field, Values values,
             bool swept = true) {
  return {std::move(key),
          std::move(values),
          [=](const RunRecipe& r) { return static_cast<int64_t>(r.*section.*field); },
          [=](RunRecipe& r, int64_t value) { r.*section.*field = static_cast<T>(value); },
          text_of<T>,
          swept};
}

Values always(std::vector<int64_t> values) {
  return [values = std::move(values)](const RunRecipe&) { return values; };
}

template <class Condition>
Values where(Condition condition, std::vector<int64_t> values) {
  return [=, values = std::move(values)](const RunRecipe& r) {
    return condition(r) ? values : std::vector<int64_t>{};
  };
}

bool shares_parameters(const RunRecipe& r) {
  return r.parallel.data * r.parallel.ring * r.parallel.ulysses > 1;
}
bool offloads_parameters(const RunRecipe& r) {
  return r.train.offload_parameters != parallel::OffloadTo::kNone;
}
// Only what is gathered before it is used may be elsewhere.
bool gathers_parameters(const RunRecipe& r) { return r.parallel.zero == 3; }

// Offloaded parameters need stage 3.
std::vector<int64_t> zero_stages(const RunRecipe& r) {
  if (offloads_parameters(r)) return {3};
  return shares_parameters(r) ? std::vector<int64_t>{0, 1, 2, 3} : std::vector<int64_t>{};
}

bool recomputes(const RunRecipe& r) { return r.train.recompute_group > 0; }
bool cuts_tensors(const RunRecipe& r) { return r.parallel.tensor > 1; }

// On all ranks of tensor.
bool has_equal_checkpoints(const RunRecipe& r) {
  return cuts_tensors(r) && recomputes(r) && !r.parallel.sequence_regions;
}

// An integer of the model's section; `otherwise` where it says none.
int64_t of_model(const RunRecipe& r, std::string_view key, int64_t otherwise) {
  const recipe::Node* node = r.model.find(key);
  if (node == nullptr) return otherwise;
  const nlohmann::json value = recipe::to_json(*node);
  return value.is_number_integer() && value.get<int64_t>() > 0 ? value.get<int64_t>() : otherwise;
}

// A learned table over ranks of a sequence.
bool shares_positions(const RunRecipe& r) {
  const recipe::Node* position = r.model.find("position");
  return position != nullptr && position->scalar == "learned" && r.parallel.ring * r.parallel.ulysses > 1;
}

// Those that part the key/value heads evenly over tensor and ulysses: with others ranks hold uneven groups.
std::vector<int64_t> groups_of_heads(const RunRecipe& r) {
  constexpr int64_t kMost = 8;  // smaller messages and products gain little
  const int64_t heads = of_model(r, "num_kv_heads", of_model(r, "num_heads", 0));
  const int64_t ranks = r.parallel.tensor * r.parallel.ulysses;
  if (heads == 0) return {1, 2, 4, 8};
  std::vector<int64_t> values{1};
  for (int64_t groups = 2; heads % ranks == 0 && groups <= std::min(kMost, heads / ranks); ++groups) {
    if (heads / ranks % groups == 0) values.push_back(groups);
  }
  return values;
}

// From a data rank's rows of a step, or what the recipe says, down to one.
std::vector<int64_t> rows_at_a_time(const RunRecipe& r) {
  const int64_t sharers = std::max<int64_t>(r.parallel.data, 1);
  std::vector<int64_t> values;
  for (int64_t rows = std::min(r.train.micro_batch, (r.train.batch + sharers - 1) / sharers); rows >= 1;
       rows /= 2) {
    values.push_back(rows);
  }
  return values;
}

}  // namespace

std::vector<Switch> memory_switches() {
  constexpr auto kTrain = &RunRecipe::train;
  constexpr auto kParallel = &RunRecipe::parallel;
  using Train = TrainOptions;
  using Mesh = parallel::MeshOptions;
  constexpr auto kStays = static_cast<int64_t>(parallel::OffloadTo::kNone);
  constexpr auto kHost = static_cast<int64_t>(parallel::OffloadTo::kHost);
  return {
      entry("train.recompute_group", kTrain, &Train::recompute_group, always({0, 1})),
      entry("train.tile_tokens", kTrain, &Train::tile_tokens, always({0, 8192})),
      entry("train.keep_attention", kTrain, &Train::keep_attention, where(recomputes, {1, 0})),
      entry("parallel.zero", kParallel, &Mesh::zero, zero_stages),
      entry("train.attention_head_groups", kTrain, &Train::attention_head_groups, groups_of_heads),
      entry("train.partition_activations", kTrain, &Train::partition_activations,
            where(has_equal_checkpoints, {0, 1}), /*swept=*/false),
      entry("parallel.sequence_regions", kParallel, &Mesh::sequence_regions, where(cuts_tensors, {0, 1})),
      entry("train.offload_checkpoints", kTrain, &Train::offload_checkpoints,
            where(recomputes, {kStays, kHost}),
            /*swept=*/false),
      entry("train.offload_optimizer", kTrain, &Train::offload_optimizer, always({kStays, kHost}),
            /*swept=*/false),
      entry("train.shard_positions", kTrain, &Train::shard_positions, where(shares_positions, {0, 1}),
            /*swept=*/false),
      entry("train.offload_parameters", kTrain, &Train::offload_parameters,
            where(gathers_parameters, {kStays, kHost}), /*swept=*/false),
      entry("train.micro_batch", kTrain, &Train::micro_batch, rows_at_a_time, /*swept=*/false),
  };
}

RunRecipe most_frugal(RunRecipe recipe) {
  for (const Switch& s : memory_switches()) {
    if (!s.swept) continue;
    const std::vector<int64_t> values = s.values(recipe);
    if (!values.empty()) s.set(recipe, values.back());
  }
  return recipe;
}

}  // namespace axial::train
