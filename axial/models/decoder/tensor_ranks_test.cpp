// SPDX-License-Identifier: Apache-2.0
// The decoder over `tensor` on real ranks equals the decoder on one: loss, every logical gradient, heads and
// decoding, with and without sequence regions; what travels, in bytes; and wrong behaviours that are caught.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/models/decoder/tensor_case.h"
#include "axial/parallel/step/action.h"
#include "axial/parallel/step/runner.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::models {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::Mesh;
using parallel::NamedTensors;
using parallel::Traffic;
using parallel::World;
using testing::Fault;
using testing::TensorPair;

int64_t vocabulary_of(const nlohmann::json& settings) { return settings.at("vocab_size").get<int64_t>(); }

nlohmann::json settings_of(const std::string& name) {
  for (const auto& c : testing::tensor_cases()) {
    if (c.name == name) return c.settings;
  }
  fail("test", "no case '{}'", name);
}

// Rows of 13 tokens: no number of ranks divides them.
NamedTensors odd_batch(int64_t vocabulary) { return testing::packed_batch({5, 8, 13}, 13, vocabulary); }

// Logits of decoding six tokens, then two more one by one, with cached keys and values on both.
std::string compare_decoding(const TensorPair& pair, const at::Tensor& tokens) {
  const at::NoGradGuard no_grad;
  const int64_t batch = tokens.size(0);
  const auto fresh_state = [&] {
    parallel::DecodeState state;
    state.capacity = 8;
    state.lengths = at::zeros({batch}, at::kLong);
    return state;
  };
  parallel::DecodeState whole = fresh_state(), cut = fresh_state();
  std::string wrong;
  int64_t done = 0;
  for (const int64_t count : {6, 1, 1}) {
    const parallel::NamedTensors inputs = {
        {"tokens", tokens.narrow(1, done, count)},
        {"positions", at::arange(done, done + count, at::kLong).expand({batch, count})}};
    const auto expected = testing::run_blocks(pair.whole.blocks_with("logits"), inputs, {{}, false, &whole});
    const auto got =
        testing::run_blocks(pair.cut.blocks_with("logits"), inputs, {{}, false, &cut, pair.ranks});
    wrong +=
        testing::difference(fmt::format("decoding behind {}", done), got.at("logits"), expected.at("logits"));
    done += count;
    for (parallel::DecodeState* state : {&whole, &cut}) state->lengths.add_(count);
  }
  return wrong;
}

void check_parity(World& world) {
  const auto ranks = world.make_communicator(Mesh({{"tensor", world.size()}}, world.size(), world.rank()));
  std::string wrong;
  for (const auto& c : testing::tensor_cases()) {
    for (const bool regions : {false, true}) {
      TensorPair pair(c.settings, *ranks, regions);
      const NamedTensors batch = odd_batch(vocabulary_of(c.settings));
      std::string found = testing::compare_steps(pair, batch);
      found += compare_decoding(pair, batch.at("tokens"));
      if (!found.empty()) wrong += fmt::format("{}{}:\n{}", c.name, regions ? " with regions" : "", found);
    }
  }
  require(wrong.empty(), wrong);
}

TEST(DecoderTensor, TwoRanksEqualOne) { EXPECT_EQ(failures(run_ranks(2, check_parity)), ""); }

TEST(DecoderTensor, ThreeRanksEqualOne) { EXPECT_EQ(failures(run_ranks(3, check_parity)), ""); }

TEST(DecoderTensor, FourRanksEqualOne) { EXPECT_EQ(failures(run_ranks(4, check_parity)), ""); }

// Two replicas of two ranks each, and rows shorter than the ranks along tensor.
TEST(DecoderTensor, OtherAxesAndShortRows) {
  const auto body = [](World& world) {
    const auto pairs = world.make_communicator(Mesh({{"data", 2}, {"tensor", 2}}, 4, world.rank()));
    TensorPair of_two(settings_of("rotary_three_kv_heads"), *pairs, true);
    require(testing::compare_steps(of_two, odd_batch(1031)).empty(), "a mesh of two axes differs");
    const auto ranks = world.make_communicator(Mesh({{"tensor", 4}}, 4, world.rank()));
    for (const auto& name : {"alibi_tied_cut_vocabulary", "bare_learned_tied"}) {
      const nlohmann::json settings = settings_of(name);
      TensorPair of_four(settings, *ranks, true);
      const std::string wrong =
          testing::compare_steps(of_four, testing::packed_batch({1, 2, 3, 3}, 3, vocabulary_of(settings)));
      require(wrong.empty(), "rows of 3: " + wrong);
    }
  };
  EXPECT_EQ(failures(run_ranks(4, body)), "");
}

// Blocks cut at their borders and run again: collectives too, in the same order on all ranks. Two ranks: with
// more, the order in which Gloo adds depends on the place in the buffer, and so on the groups.
void check_recomputation(World& world) {
  const auto ranks =
      world.make_communicator(Mesh({{"data", 1}, {"tensor", world.size()}}, world.size(), world.rank()));
  for (const char* name : {"alibi_tied_cut_vocabulary", "rotary_three_kv_heads"}) {
    const nlohmann::json settings = settings_of(name);
    const auto gradients = [&](int64_t group) {
      TensorPair pair(settings, *ranks, true);
      parallel::StepRunner runner(pair.cut.blocks_with("loss"), *pair.cut.parameters, pair.cut.batch_names,
                                  ranks.get());
      const auto plan =
          parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {group, 1, 1});
      runner.train(plan, {odd_batch(vocabulary_of(settings))}, TensorPair::context(nullptr, true), 0.5);
      std::vector<at::Tensor> grads;
      for (const auto& row : pair.cut.parameters->rows()) grads.push_back(row->grad);
      return grads;
    };
    const auto kept = gradients(0), recomputed = gradients(2);
    for (size_t i = 0; i < kept.size(); ++i) {
      require(at::equal(kept[i], recomputed[i]), fmt::format("{}: parameter {} differs", name, i));
    }
  }
}

TEST(DecoderTensor, RecomputationChangesNoBit) { EXPECT_EQ(failures(run_ranks(2, check_recomputation)), ""); }

// Two replicas with a batch each, of two ranks each: the runner's gradients are those of both batches.
void check_runner(World& world) {
  const auto ranks = world.make_communicator(Mesh({{"data", 2}, {"tensor", 2}}, 4, world.rank()));
  std::string wrong;
  for (const int64_t stage : {0, 3}) {
    for (const bool regions : {false, true}) {
      const nlohmann::json settings = settings_of("alibi_tied_cut_vocabulary");
      TensorPair pair(settings, *ranks, regions, stage);
      const NamedTensors batches[] = {odd_batch(1031),
                                      testing::packed_batch({13, 6, 7}, 13, 1031, /*seed=*/9)};
      for (const NamedTensors& batch : batches) {
        pair.run_whole("loss", batch, true).at("loss_sum").mul(0.5).backward();
      }
      parallel::StepRunner runner(pair.cut.blocks_with("loss"), *pair.cut.parameters, pair.cut.batch_names,
                                  ranks.get());
      const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1,
                                                      {.recompute_group = 2, .zero_stage = stage});
      runner.train(plan, {batches[ranks->mesh().coordinate("data")]}, TensorPair::context(nullptr, true),
                   0.5);
      for (const auto& row : pair.cut.parameters->rows()) {
        const at::Tensor expected = pair.whole.parameters->at(row->spec.name).value.grad();
        wrong += testing::difference(
            fmt::format("ZeRO {}{}: {}", stage, regions ? " with regions" : "", row->spec.name), row->grad,
            row->holding.select(expected));
      }
    }
  }
  require(wrong.empty(), wrong);
}

TEST(DecoderTensor, RunnerSumsOverDataAndRegions) { EXPECT_EQ(failures(run_ranks(4, check_runner)), ""); }

// What went over tensor in one forward and backward.
std::map<std::string, Traffic> traffic_of_step(parallel::Communicator& ranks, const nlohmann::json& settings,
                                               bool regions) {
  const TensorPair pair(settings, ranks, regions);
  ranks.clear_traffic();
  pair.run_cut("loss", testing::packed_batch({5, 7, 12}, 12, vocabulary_of(settings)), true)
      .at("loss_sum")
      .backward();
  std::map<std::string, Traffic> traffic;
  for (const auto& [key, value] : ranks.traffic()) {
    if (key.first == "tensor") traffic[key.second] = value;
  }
  return traffic;
}

void check_traffic(World& world) {
  const auto ranks = world.make_communicator(Mesh({{"tensor", 2}}, 2, world.rank()));
  const auto expect = [&](const std::string& name, bool regions,
                          const std::map<std::string, Traffic>& expected) {
    std::string got;
    bool equal = true;
    const auto traffic = traffic_of_step(*ranks, settings_of(name), regions);
    for (const auto& [op, t] : traffic) {
      got += fmt::format("{} {} calls {} bytes {} padding; ", op, t.calls, t.bytes, t.padding);
    }
    for (const char* op : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"}) {
      const auto want = expected.find(op), have = traffic.find(op);
      equal = equal && (want == expected.end() ? have == traffic.end()
                                               : have != traffic.end() && have->second == want->second);
    }
    require(equal, fmt::format("{}{}: {}", name, regions ? " with regions" : "", got));
  };
  // The stream is 2 x 12 x 24 fp64 = 4608 bytes; a rank of two sends half of it twice to reduce it, half of
  // it once to gather or scatter it. Two layers, two of each forward and two backward.
  expect("rotary_gated", false, {{"all_reduce", {8, 36864, 0}}});
  // And the loss: a sum and a weight.
  expect("rotary_gated", true,
         {{"all_reduce", {2, 16, 0}}, {"all_gather", {8, 18432, 0}}, {"reduce_scatter", {8, 18432, 0}}});
  // A cut vocabulary: embedding forward, hidden backward, 24 maxima, 2 x 24 sums.
  expect("learned_cut_vocabulary_parallel", false, {{"all_reduce", {12, 46656, 0}}});
  // Embedding: reduce-scatter and all-gather; head: all-gather and reduce-scatter.
  expect("learned_cut_vocabulary_parallel", true,
         {{"all_reduce", {2, 576, 0}}, {"all_gather", {10, 23040, 0}}, {"reduce_scatter", {10, 23040, 0}}});
  // Three key/value heads on two ranks: gradients of 2 x 12 rows of 24, and of their biases, per layer.
  expect("rotary_three_kv_heads", false, {{"all_reduce", {16, 46656 + 2 * (4608 + 192), 0}}});
}

TEST(DecoderTensor, SendsWhatTheFormulaSays) { EXPECT_EQ(failures(run_ranks(2, check_traffic)), ""); }

void check_faults(World& world) {
  using ::testing::HasSubstr;
  using ::testing::Value;
  const auto ranks = world.make_communicator(Mesh({{"tensor", world.size()}}, world.size(), world.rank()));
  const auto found = [&](Fault fault, bool regions) {
    TensorPair pair(settings_of("rotary_gated"), *ranks, regions);
    return testing::compare_steps(pair, odd_batch(69), fault);
  };
  const std::string norms = found(Fault::kNormsNotSummed, true);
  for (const char* name : {"layers.0.attention_norm.weight", "layers.1.ffn_norm.bias", "final_norm.weight"}) {
    require(Value(norms, HasSubstr(name)), "norms that are not summed are not noticed: " + norms);
  }
  require(found(Fault::kNormsNotSummed, false).empty(), "norms of a whole stream need no sum");
  require(Value(found(Fault::kBiasOnEveryRank, false), HasSubstr("loss_sum: off by")),
          "a bias on every rank is not noticed");

  // A model that is cut, and a call without its ranks.
  TensorPair pair(settings_of("rotary_gated"), *ranks, false);
  std::string message;
  try {
    testing::run_blocks(pair.cut.blocks_with("loss"), odd_batch(69));
  } catch (const ValueError& error) {
    message = error.what();
  }
  require(Value(message, HasSubstr("expected the 2 that the model was cut for by parallelize, got 1")),
          "no error without ranks: " + message);
}

TEST(DecoderTensor, WrongBehavioursAreCaught) { EXPECT_EQ(failures(run_ranks(2, check_faults)), ""); }

}  // namespace
}  // namespace axial::models
