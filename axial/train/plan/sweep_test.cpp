// SPDX-License-Identifier: Apache-2.0
// Sweeps and advice over plans that the test makes up, so that every number is known; and a real one.
#include "axial/train/plan/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "axial/train/plan/switches.h"

namespace axial::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

RunRecipe recipe_of(const nlohmann::json& train, const nlohmann::json& parallel = nlohmann::json::object()) {
  return recipe::parse<RunRecipe>(
      {{"model",
        {{"hidden_size", 32}, {"num_layers", 2}, {"num_heads", 4}, {"ffn_size", 64}, {"max_positions", 64}}},
       {"data", {{"files", {"none.fasta"}}, {"tokenizer", {{"kind", "codon"}}}, {"sequence_length", 64}}},
       {"train", train},
       {"parallel", parallel}});
}

Device device_of(int64_t memory) {
  Device device;
  device.memory = memory;
  device.flops_32bit = 100;
  device.bandwidth = device.link = 1000;
  device.network = 10;
  device.per_machine = 4;
  return device;
}

// A plan that needs so many bytes and operations a rank.
Plan made_up(const RunRecipe& recipe, const Device& device, int64_t world_size, int64_t bytes, double flops,
             int64_t sent = 0) {
  Plan plan;
  plan.device = device;
  plan.world_size = world_size;
  plan.parallel = recipe.parallel;
  plan.row_length = recipe.data.sequence_length;
  plan.batch = recipe.train.batch;
  plan.micro_batches = recipe.train.batch;
  PlannedRanks role;
  for (int64_t rank = 0; rank < world_size; ++rank) role.step.ranks.push_back(rank);
  role.step.flops.products = flops;
  if (sent > 0) role.step.traffic[{"ring", "send"}] = {1, sent, 0};
  role.reserved.peak_reserved = bytes;
  role.reserved.fits = bytes <= device.memory;
  plan.roles.push_back(role);
  return plan;
}

TEST(Switches, TakeEffectAndAreWrittenAsOverrides) {
  RunRecipe recipe =
      recipe_of({{"batch", 8}, {"micro_batch", 6}, {"recompute_group", 1}}, {{"data", 2}, {"tensor", 2}});
  std::set<std::string> keys;
  for (const Switch& s : memory_switches()) {
    EXPECT_TRUE(keys.insert(s.key).second);
    for (const int64_t value : s.values(recipe)) {
      RunRecipe changed = recipe;
      s.set(changed, value);
      EXPECT_EQ(s.get(changed), value) << s.key;
      // The text of --set means the same.
      recipe::Node tree = recipe::to_node(recipe);
      recipe::apply_override(tree, s.with(value));
      EXPECT_EQ(s.get(recipe::parse<RunRecipe>(tree)), value) << s.with(value);
    }
    if (s.key == "train.micro_batch") {
      EXPECT_THAT(s.values(recipe), ElementsAre(4, 2, 1));
    }
  }
  // Groups of heads come out even over tensor and ulysses.
  const auto groups = [](RunRecipe r) { return most_frugal(std::move(r)).train.attention_head_groups; };
  EXPECT_EQ(groups(recipe), 2);
  EXPECT_EQ(groups(recipe_of({})), 4);
  EXPECT_EQ(groups(recipe_of({}, {{"ulysses", 4}})), 1);
  EXPECT_EQ(groups(recipe_of({}, {{"ulysses", 3}})), 1);
  const RunRecipe frugal = most_frugal(recipe);
  EXPECT_EQ(frugal.parallel.zero, 3);
  EXPECT_TRUE(frugal.parallel.sequence_regions);
  EXPECT_EQ(frugal.train.micro_batch, 6);
  EXPECT_EQ(most_frugal(recipe_of({})).parallel.zero, 0);  // nobody to share with
  EXPECT_EQ(most_frugal(recipe_of({{"offload_parameters", "host"}})).parallel.zero, 3);
}

TEST(Switches, OfferWhatHasAnEffect) {
  const auto values = [](const std::string& key, const RunRecipe& recipe) {
    for (const Switch& s : memory_switches()) {
      if (s.key == key) return s.values(recipe);
    }
    return std::vector<int64_t>{-1};
  };
  const nlohmann::json recomputes = {{"recompute_group", 1}};
  EXPECT_THAT(values("train.offload_parameters", recipe_of({}, {{"zero", 3}})), ElementsAre(0, 1));
  EXPECT_THAT(values("train.offload_parameters", recipe_of({}, {{"zero", 2}})), ElementsAre());
  EXPECT_THAT(values("parallel.zero", recipe_of({{"offload_parameters", "file"}}, {{"data", 2}})),
              ElementsAre(3));
  const auto partition = [&](const nlohmann::json& train, const nlohmann::json& parallel) {
    return values("train.partition_activations", recipe_of(train, parallel));
  };
  EXPECT_THAT(partition(recomputes, {{"tensor", 2}}), ElementsAre(0, 1));
  EXPECT_THAT(partition(nlohmann::json::object(), {{"tensor", 2}}), ElementsAre());
  EXPECT_THAT(partition(recomputes, {{"tensor", 2}, {"sequence_regions", true}}), ElementsAre());
}

TEST(Sweep, MeshesAreAllFactorisations) {
  EXPECT_THAT(meshes_of(1, {}), SizeIs(1));
  EXPECT_THAT(meshes_of(7, {}), SizeIs(5));
  EXPECT_THAT(meshes_of(64, {}), SizeIs(210));  // 6 twos over 5 axes: 10 over 4
  for (const parallel::MeshOptions& m : meshes_of(12, {})) {
    EXPECT_EQ(m.data * m.pipe * m.ring * m.ulysses * m.tensor, 12);
    EXPECT_EQ(m.sequence_regions, m.tensor > 1);
  }
}

// Fits where rows are cut over a ring; recomputing costs a third; messages are slow between machines.
SweepResult swept(int64_t limit, const Device& device, const RunRecipe& recipe, int64_t* plans) {
  const models::ModelRegistry registry = models::all_models();
  SweepOptions options;
  options.limit = limit;
  options.best = 3;
  options.planning = [&, plans](const RunRecipe& r) {
    ++*plans;
    const int64_t ring = r.parallel.ring;
    const bool again = r.train.recompute_group > 0;
    return made_up(r, device, 8, (again ? 400'000 : 600'000) / ring, again ? 4e6 : 3e6,
                   ring > 1 ? 1'000'000 : 0);
  };
  return sweep(recipe, registry, 8, device, options);
}

TEST(Sweep, TheFastestThatFitsIsFirstAndRefusalsAreGrouped) {
  const RunRecipe recipe = recipe_of({{"batch", 2}, {"micro_batch", 1}});
  const Device device = device_of(160'000);
  int64_t plans = 0;
  const SweepResult result = swept(200, device, recipe, &plans);
  EXPECT_EQ(result.meshes, 35);
  EXPECT_EQ(result.planned, plans);
  EXPECT_EQ(result.left_out, 0);
  // A ring of 4, which may lie in one machine and needs no recompute: 600,000 / 4 fit.
  ASSERT_THAT(result.best, SizeIs(3));
  const SweepEntry& first = result.best.front();
  EXPECT_EQ(first.recipe.parallel.ring, 4);
  EXPECT_EQ(first.recipe.train.recompute_group, 0);
  EXPECT_EQ(first.needed_bytes, 150'000);
  EXPECT_EQ(first.estimate.products_s, 3e6 / (100 * 0.5));
  for (size_t i = 1; i < result.best.size(); ++i) {
    EXPECT_LE(result.best[i - 1].estimate.longest_s, result.best[i].estimate.longest_s);
  }
  int64_t refused = 0;
  bool lacks = false, no_rows = false;
  for (const SweepRefusal& r : result.refused) {
    refused += r.count;
    lacks |= r.reason == "does not fit, whatever saves memory" && r.least_missing_bytes == 200'000 - 160'000;
    no_rows |= r.reason == "train.batch: 2 rows have none for some ranks of data" && r.count == 5;
  }
  EXPECT_TRUE(lacks && no_rows);
  EXPECT_EQ(refused + result.fitting, result.meshes);
}

TEST(Sweep, MakesNoMorePlansThanItMay) {
  const RunRecipe recipe = recipe_of({{"batch", 2}, {"micro_batch", 1}});
  int64_t plans = 0;
  const SweepResult result = swept(5, device_of(160'000), recipe, &plans);
  EXPECT_LE(plans, 5);
  EXPECT_GT(result.left_out, 0);
  int64_t refused = 0;
  for (const SweepRefusal& r : result.refused) refused += r.count;
  EXPECT_EQ(refused + result.fitting + result.left_out, result.meshes);
}

TEST(Sweep, WhatWeightsAloneOverfillIsNotPlanned) {
  const RunRecipe recipe = recipe_of({{"batch", 2}, {"micro_batch", 1}});
  int64_t plans = 0;
  const SweepResult result = swept(100, device_of(1000), recipe, &plans);
  EXPECT_EQ(plans, 0);
  EXPECT_THAT(result.best, SizeIs(0));
  EXPECT_THAT(sweep_text(result, {}),
              HasSubstr("weights, gradients and moments alone do not fit; the nearest lacks"));
  EXPECT_THAT(sweep_text(result, {}), HasSubstr("some ranks of tensor and ulysses"));
}

TEST(Sweep, OfRealPlansEverySettingListedFits) {
  const models::ModelRegistry registry = models::all_models();
  const RunRecipe recipe = recipe_of({{"batch", 4}, {"micro_batch", 2}});
  const Device device = device_of(int64_t{64} << 20);
  SweepOptions options;
  options.limit = 12;
  const SweepResult result = sweep(recipe, registry, 2, device, options);
  ASSERT_FALSE(result.best.empty());
  for (const SweepEntry& entry : result.best) {
    recipe::Node tree = recipe::to_node(recipe);
    for (const std::string& setting : entry.settings) recipe::apply_override(tree, setting);
    const Plan plan = plan_recipe(recipe::parse<RunRecipe>(tree), registry, 2, device);
    EXPECT_TRUE(plan.fits());
    EXPECT_EQ(plan.largest().needed_bytes(), entry.needed_bytes);
    EXPECT_EQ(estimate(plan).longest_s, entry.estimate.longest_s);
  }
}

TEST(Advice, IsInOrderOfEffectAndSaysWhatFits) {
  const RunRecipe recipe = recipe_of({{"batch", 4}, {"micro_batch", 4}}, {{"ring", 2}});
  const Device device = device_of(500);
  const auto planning = [&](const RunRecipe& r) {
    if (r.train.attention_head_groups == 4) throw ValueError("too many groups");
    return made_up(r, device, 2,
                   1000 - 300 * (r.train.recompute_group > 0) - 50 * r.parallel.zero -
                       100 * (4 - r.train.micro_batch) + 10 * r.train.attention_head_groups,
                   1);
  };
  int64_t told = 0;
  const auto advice = advise(recipe, planning(recipe), planning, [&](int64_t done, int64_t total) {
    EXPECT_LE(done, total);
    told = done;
  });
  EXPECT_GT(told, 5);
  ASSERT_GE(advice.size(), 7U);
  EXPECT_EQ(advice[0].change, "train.recompute_group=1");  // as much as the next, and before it in the table
  EXPECT_EQ(advice[0].saved_bytes, 300);
  EXPECT_EQ(advice[0].spare_bytes, -210);
  EXPECT_EQ(advice[1].change, "train.micro_batch=1");
  EXPECT_EQ(advice[2].change, "train.micro_batch=2");
  EXPECT_EQ(advice[3].change, "parallel.zero=3");
  const Advice& all = advice.back();
  EXPECT_EQ(all.change, "train.recompute_group=1 parallel.zero=3 train.micro_batch=1");
  EXPECT_TRUE(all.fits);
  EXPECT_EQ(all.spare_bytes, 500 - (1010 - 750));
  EXPECT_THAT(advice_text(advice), HasSubstr("fits, 240 B left"));
  EXPECT_THAT(advice_text({}), HasSubstr("no setting"));
}

TEST(Advice, OneThatIsEnoughComesFirst) {
  const RunRecipe recipe =
      recipe_of({{"batch", 4}, {"micro_batch", 1}, {"recompute_group", 1}}, {{"ring", 2}});
  const Device device = device_of(500);
  const auto planning = [&](const RunRecipe& r) {
    return made_up(r, device, 2, 600 - 50 * r.parallel.zero, 1);
  };
  const auto advice = advise(recipe, planning(recipe), planning);
  ASSERT_EQ(advice.size(), 3U);
  EXPECT_EQ(advice[0].change, "parallel.zero=3");
  EXPECT_TRUE(advice[0].fits && advice[1].fits && !advice[2].fits);
}

TEST(Estimate, IsWhatThePeaksSay) {
  RunRecipe recipe = recipe_of({{"batch", 4}, {"micro_batch", 1}}, {{"pipe", 2}, {"ring", 2}});
  Plan plan = made_up(recipe, device_of(500), 4, 100, 1000, 700);
  plan.roles[0].step.recomputed.products = 250;
  plan.roles[0].step.allocated_bytes = 3500;
  const StepEstimate e = estimate(plan);
  EXPECT_DOUBLE_EQ(e.products_s, 20);   // 1000 at half of 100
  EXPECT_DOUBLE_EQ(e.memory_s, 10);     // twice 3500 at 0.7 of 1000
  EXPECT_DOUBLE_EQ(e.messages_s, 1);    // 700 at 0.7 of a link's 1000
  EXPECT_DOUBLE_EQ(e.idle_share, 0.2);  // 1 of 4 + 1
  EXPECT_DOUBLE_EQ(e.shortest_s, 30 / 0.8);
  EXPECT_DOUBLE_EQ(e.longest_s, 31 / 0.8);
  EXPECT_DOUBLE_EQ(e.tokens_per_s, 4 * 64 / (31 / 0.8));
  EXPECT_DOUBLE_EQ(e.model_share, 750 / (100 * 31 / 0.8));
  plan.device.per_machine = 1;  // over the network
  EXPECT_DOUBLE_EQ(estimate(plan).messages_s, 100);
  EXPECT_DOUBLE_EQ(estimate(plan).shortest_s, 100 / 0.8);
  EXPECT_THAT(estimate_text(plan, {}), HasSubstr("assumed: 50 % of device's peak operations"));
  plan.device.flops_32bit = 0;
  EXPECT_FALSE(estimate(plan).known);
  EXPECT_THAT(estimate_text(plan, {}), HasSubstr("no estimate of time"));
}

}  // namespace
}  // namespace axial::train
