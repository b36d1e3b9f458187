// SPDX-License-Identifier: Apache-2.0
// The decoder's feed-forward, norms and heads over some positions at a time: the step of all at once, on one
// rank and over ranks that share rows, heads or tokens; and what it saves.
#include <gtest/gtest.h>

#include "axial/models/decoder/sequence_case.h"
#include "axial/models/decoder/tensor_case.h"
#include "axial/ops/common/memory_count.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::models {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::MemoryPolicy;
using parallel::Mesh;
using parallel::NamedTensors;
using parallel::SequenceLayout;
using parallel::StepRunner;
using parallel::World;
using testing::kLength;
using testing::rows;

MemoryPolicy tiled(int64_t tile_tokens, int64_t group = 0, bool keep_attention = false) {
  MemoryPolicy policy{group, 1, 1};
  policy.keep_attention = keep_attention;
  policy.tile_tokens = tile_tokens;
  return policy;
}

// fp64: sums of 26 positions in another order.
constexpr double kTolerance = 1e-12;

TEST(DecoderTiles, EqualAllAtOnce) {
  for (const testing::DecoderCase& c : testing::decoder_cases()) {
    const NamedTensors batch = SequenceLayout::whole(kLength).make_batch(rows(kLength), 0);
    const auto step = [&](const MemoryPolicy& policy) {
      return testing::take_step(c.settings, batch, nullptr, nullptr, 0.5, policy);
    };
    const testing::Step expected = step({});
    for (const MemoryPolicy& policy :
         {tiled(1), tiled(5), tiled(12, 1), tiled(4, 2), tiled(4, 1, true), tiled(3, 100)}) {
      EXPECT_LE(testing::difference(step(policy), expected), kTolerance)
          << c.name << " tile " << policy.tile_tokens << " group " << policy.recompute_group;
    }
    EXPECT_EQ(testing::difference(step(tiled(kLength)), expected), 0) << c.name;
  }
}

// Ranks of a ring have other numbers of positions, one of them none.
void check_sequence(World& world, int64_t ring, int64_t ulysses, int64_t length) {
  const testing::Party party(world, ring, ulysses, length);
  const NamedTensors batch = party.layout.make_batch(rows(length), 0);
  for (const testing::DecoderCase& c : testing::decoder_cases()) {
    const auto step = [&](const MemoryPolicy& policy) {
      return testing::take_step(c.settings, batch, &party.layout, party.ranks.get(), 0.5, policy);
    };
    const double worst = testing::difference(step(tiled(2, 1)), step({}));
    require(worst <= kTolerance, fmt::format("{}: off by {}", c.name, worst));
  }
}

TEST(DecoderTiles, OverRanksThatShareRows) {
  EXPECT_EQ(failures(run_ranks(3,
                               [](World& world) {
                                 check_sequence(world, 3, 1, kLength);
                                 check_sequence(world, 3, 1, 2);
                                 check_sequence(world, 1, 3, kLength);
                               })),
            "");
}

// Rows of 13 tokens, which no number of ranks divides: tiles of unequal pieces, some of them empty.
std::string compare_tensor(const testing::DecoderCase& c, parallel::Communicator& ranks, bool regions) {
  const NamedTensors batch =
      testing::packed_batch({5, 8, 13}, 13, c.settings.at("vocab_size").get<int64_t>());
  const testing::TensorPair pair(c.settings, ranks, regions);
  const auto train = [&](const MemoryPolicy& policy) {
    pair.cut.parameters->clear_gradients();
    StepRunner runner(pair.cut.blocks_with("loss"), *pair.cut.parameters, pair.cut.batch_names, &ranks);
    const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, policy);
    const auto result = runner.train(plan, {batch}, testing::TensorPair::context(nullptr, true), 0.5);
    std::map<std::string, at::Tensor> out{{"loss_sum", result.loss_sums[0]},
                                          {"loss_weight", result.loss_weights[0]}};
    for (const auto& row : pair.cut.parameters->rows())
      out["gradient of " + row->spec.name] = row->grad.clone();
    for (const char* head : {"log_likelihood", "logits"}) {
      StepRunner inference(pair.cut.blocks_with(head), *pair.cut.parameters, pair.cut.batch_names, &ranks);
      inference.set_inference_tiles(policy.tile_tokens);
      out[head] = inference.infer(batch, {}, {head}).at(head);
    }
    return out;
  };
  const auto expected = train({});
  std::string wrong;
  for (const MemoryPolicy& policy : {tiled(5), tiled(1, 1), tiled(12, 2)}) {
    const auto got = train(policy);
    for (const auto& [name, tensor] : expected) {
      const std::string what = fmt::format("{}{}, {} in tiles of {}", c.name, regions ? " with regions" : "",
                                           name, policy.tile_tokens);
      wrong += testing::difference(what, got.at(name), tensor);
    }
  }
  return wrong;
}

void check_tensor(World& world) {
  const auto ranks =
      world.make_communicator(Mesh({{"data", 1}, {"tensor", world.size()}}, world.size(), world.rank()));
  std::string wrong;
  for (const testing::DecoderCase& c : testing::tensor_cases()) {
    for (const bool regions : {false, true}) wrong += compare_tensor(c, *ranks, regions);
  }
  require(wrong.empty(), wrong);
}

TEST(DecoderTiles, OverTwoRanksOfTensor) { EXPECT_EQ(failures(run_ranks(2, check_tensor)), ""); }

TEST(DecoderTiles, OverThreeRanksOfTensor) { EXPECT_EQ(failures(run_ranks(3, check_tensor)), ""); }

TEST(DecoderTiles, OverFourRanksOfTensor) { EXPECT_EQ(failures(run_ranks(4, check_tensor)), ""); }

struct Peaks {
  int64_t all = 0, logits = 0;
};

// Of a step without data over rows of 4096 tokens, above what is there before it.
Peaks peaks_of(const MemoryPolicy& policy) {
  Model model = all_models().at("decoder").build({{"vocab_size", 1031},
                                                  {"hidden_size", 64},
                                                  {"num_layers", 2},
                                                  {"num_heads", 4},
                                                  {"ffn_size", 8192},
                                                  {"max_positions", 4096}});
  ops::MemoryCount memory;
  model.parameters->materialize(at::kMeta, at::kBFloat16, 11);
  NamedTensors batch = testing::packed_batch({4096}, 4096, 1031);
  for (auto& [name, tensor] : batch) {
    if (name != "segments") tensor = tensor.to(at::kMeta);
  }
  StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, policy);
  const int64_t before = memory.live();
  memory.reset_peak();
  runner.train(plan, {batch}, parallel::StepContext{root_key(5), true, nullptr}, 1.0);
  return {memory.peak() - before, memory.peak(ops::MemoryUse::kLogits)};
}

// Logits of all positions are 4096 x 1031 of 2 bytes, beside their gradient; features 4096 x 8192, before and
// after the activation, likewise.
TEST(DecoderTiles, HoldLogitsAndFeaturesOfOneTile) {
  const Peaks whole = peaks_of(tiled(0, 1)), by_512 = peaks_of(tiled(512, 1)), by_64 = peaks_of(tiled(64, 1));
  const int64_t logits = int64_t{4096} * 1031 * 2, stream = int64_t{4096} * 64 * 2;
  EXPECT_GE(whole.logits, 2 * logits);
  EXPECT_LT(by_512.logits, whole.logits / 4);
  EXPECT_LT(by_64.logits, logits / 16 + 4 * stream);
  EXPECT_LT(by_64.all, whole.all / 3);
}

}  // namespace
}  // namespace axial::models
