// SPDX-License-Identifier: Apache-2.0
// Both sides of attention_mask.host_tokens: pairs as a bias on the device, and as bits in memory of the host,
// give the same losses and gradients on one rank and on every split of the sequence.
#include <gtest/gtest.h>

#include <optional>

#include "axial/models/decoder/sequence_case.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::models {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::NamedTensors;
using parallel::SequenceLayout;
using parallel::World;
using testing::Party;

constexpr int64_t kPlaces = 150;

nlohmann::json settings(int64_t host_tokens) {
  return {{"vocab_size", 13},
          {"hidden_size", 16},
          {"num_layers", 2},
          {"num_heads", 4},
          {"num_kv_heads", 2},
          {"max_positions", 160},
          {"init_std", 0.3},
          {"position", "alibi"},
          {"attention_mask", {{"window", 40}, {"global", {0, 70}}, {"host_tokens", host_tokens}}}};
}

std::vector<parallel::PackedRow> long_rows(bool packed) {
  std::vector<parallel::PackedRow> rows(2);
  for (int64_t i = 0; i < kPlaces; ++i) {
    rows[0].tokens.push_back((i * 5 + 3) % 13);
    if (i < kPlaces - 4) rows[1].tokens.push_back((i * i + 1) % 13);
  }
  rows[0].record_starts = rows[1].record_starts = {0};
  if (packed) rows[0].record_starts = {0, 100};
  rows[1].sample_id = 1;
  return rows;
}

void compare(World* world, int64_t ring, int64_t ulysses) {
  std::optional<Party> party;
  if (world) party.emplace(*world, ring, ulysses, kPlaces);
  const SequenceLayout layout = party ? party->layout : SequenceLayout::whole(kPlaces);
  parallel::Communicator* ranks = party ? party->ranks.get() : nullptr;
  for (const bool packed : {false, true}) {
    const NamedTensors batch = layout.make_batch(long_rows(packed), 0);
    for (const bool recompute : {false, true}) {
      parallel::MemoryPolicy policy;
      policy.recompute_group = recompute ? 1 : 0;
      policy.keep_attention = recompute;
      policy.head_groups = recompute ? 2 : 1;
      const auto step = [&](int64_t host_tokens) {
        return testing::take_step(settings(host_tokens), batch, &layout, ranks, 0.01, policy);
      };
      const double off = testing::difference(step(kPlaces - 1), step(kPlaces));
      require(off <= 1e-11, fmt::format("ring {} ulysses {}{}{}: off by {}", ring, ulysses,
                                        packed ? ", packed" : "", recompute ? ", recomputed" : "", off));
    }
  }
}

TEST(MaskThreshold, BothSidesAreEqual) { compare(nullptr, 1, 1); }

TEST(MaskThreshold, BothSidesAreEqualOnRanks) {
  EXPECT_EQ(failures(run_ranks(2,
                               [](World& world) {
                                 compare(&world, 2, 1);
                                 compare(&world, 1, 2);
                               })),
            "");
}

TEST(MaskThreshold, BothSidesAreEqualOnFourRanks) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 compare(&world, 2, 2);
                                 compare(&world, 4, 1);
                               })),
            "");
}

// Where a mask lies is no part of a model that is saved.
TEST(MaskThreshold, IsNoPartOfTheModel) {
  const ModelRegistry registry = all_models();
  EXPECT_EQ(registry.at("decoder").build(settings(3)).config,
            registry.at("decoder").build(settings(300)).config);
}

}  // namespace
}  // namespace axial::models
