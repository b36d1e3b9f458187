// SPDX-License-Identifier: Apache-2.0
// Decoders whose rows lie on several ranks: losses and every gradient of a step are those of one rank,
// dropout included. The mistakes that the field has made with split sequences: sequence_faults_test.cpp.
#include <gtest/gtest.h>

#include "axial/models/decoder/sequence_case.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::models {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::NamedTensors;
using parallel::SequenceLayout;
using parallel::World;
using testing::kLength;
using testing::Party;
using testing::rows;

constexpr int64_t kElements = 6072;  // of the model of BytesOfAStep

// The whole model with its heads in groups, as the runner is told by its plan.
TEST(DecoderSequence, HeadsInGroupsAreTheSame) {
  for (const testing::DecoderCase& c : testing::decoder_cases()) {
    const auto layout = SequenceLayout::whole(kLength);
    const NamedTensors batch = layout.make_batch(rows(kLength), 0);
    parallel::MemoryPolicy policy;
    policy.recompute_group = 1;
    policy.keep_attention = true;
    policy.head_groups = 2;
    const auto step = testing::take_step(c.settings, batch, nullptr, nullptr, 0.5, policy);
    EXPECT_LE(testing::difference(step, testing::take_step(c.settings, batch, nullptr, nullptr, 0.5)), 1e-12)
        << c.name;
  }
}

void check_all(World& world, int64_t ring, int64_t ulysses, int64_t length = kLength) {
  Party party(world, ring, ulysses, length);
  for (const testing::DecoderCase& c : testing::decoder_cases()) {
    const double worst = party.compare(c.settings);
    require(worst <= 1e-9, fmt::format("{}: off by {}", c.name, worst));
  }
}

TEST(DecoderSequence, TwoRanksAreOne) {
  EXPECT_EQ(failures(run_ranks(2,
                               [](World& world) {
                                 check_all(world, 2, 1);
                                 check_all(world, 1, 2);
                               })),
            "");
}

TEST(DecoderSequence, RingTimesUlyssesIsOne) {
  EXPECT_EQ(failures(run_ranks(4, [](World& world) { check_all(world, 2, 2); })), "");
}

TEST(DecoderSequence, ThreeRanksAreOne) {
  EXPECT_EQ(failures(run_ranks(3,
                               [](World& world) {
                                 check_all(world, 3, 1);
                                 check_all(world, 3, 1, 2);  // a rank without positions
                                 check_all(world, 1, 3, 2);
                               })),
            "");
}

// The planner's step: no peers, no data, the shapes of a rank.
TEST(DecoderSequence, PlansOnMeta) {
  for (const testing::DecoderCase& c : testing::decoder_cases()) {
    const parallel::Mesh mesh({{"data", 1}, {"ring", 2}, {"ulysses", 2}}, 4, 3);
    Communicator ranks(mesh, parallel::make_recording_transport(), nullptr, {});
    const SequenceLayout layout = SequenceLayout::over(mesh, kLength);
    NamedTensors batch = layout.make_batch(rows(kLength), 0);
    for (auto& [name, tensor] : batch) tensor = tensor.to(at::kMeta);
    Model model = all_models().at("decoder").build(c.settings);
    parallel::partition_parameters(*model.parameters, mesh, 0);
    model.parameters->materialize(at::kMeta, at::kBFloat16, 11);
    parallel::StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names, &ranks);
    parallel::StepContext context{root_key(5), true, nullptr};
    context.sequence = &layout;
    runner.train(parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {}), {batch},
                 context, 1.0);
    for (const auto& row : model.parameters->rows()) EXPECT_TRUE(row->grad.is_meta()) << row->spec.name;
    const int64_t layers = 2;
    EXPECT_EQ(ranks.traffic().at({"ring", "send"}).calls, 3 * layers) << c.name;
    EXPECT_EQ(ranks.traffic().at({"ulysses", "all_to_all"}).calls, 6 * layers) << c.name;
  }
}

// Bytes that one of two ranks sends in a whole step: 2 rows of 12 places, of which it holds 6; 2 layers, 6
// query and 2 key/value heads of width 4; fp64.
std::map<std::pair<std::string, std::string>, parallel::Traffic> traffic_over(
    const std::string& axis, const nlohmann::json& changes = nlohmann::json::object()) {
  Communicator ranks(parallel::Mesh({{axis, 2}}, 2, 0), parallel::make_recording_transport(), nullptr, {});
  nlohmann::json config = {{"vocab_size", 13}, {"hidden_size", 24},  {"num_layers", 2},
                           {"num_heads", 6},   {"num_kv_heads", 2},  {"head_dim", 4},
                           {"ffn_size", 20},   {"max_positions", 16}};
  config.update(changes);
  Model model = all_models().at("decoder").build(config);
  parallel::partition_parameters(*model.parameters, ranks.mesh(), 0);
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  EXPECT_EQ(model.parameters->num_elements(), kElements);
  parallel::StepRunner runner = model.runner_with("loss", &ranks);
  const auto layout = SequenceLayout::over(ranks.mesh(), 12);
  runner.set_sequence(layout);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {});
  runner.train(plan, {layout.make_batch(rows(12), 0)}, parallel::StepContext{root_key(5), true, nullptr},
               1.0);
  return ranks.traffic();
}

parallel::Traffic sent(const std::string& axis, const std::string& op) {
  return traffic_over(axis).at({axis, op});
}

TEST(DecoderSequence, BytesOfAStep) {
  // Keys and values [2, 2, 6, 2, 4] of 1536 bytes: once forward, once backward, and as many of their
  // gradients.
  EXPECT_EQ(sent("ring", "send"), (parallel::Traffic{2 * 3, 2 * 3 * 1536, 0}));
  // Half of q and of the result, 2304 bytes each, and of keys and values, 1536, forward and backward.
  EXPECT_EQ(sent("ulysses", "all_to_all"), (parallel::Traffic{2 * 6, 2 * 2 * (1152 + 1152 + 768), 0}));
  // 2 * (2 - 1) / 2 of all gradients.
  for (const char* axis : {"ring", "ulysses"}) EXPECT_EQ(sent(axis, "all_reduce").bytes, kElements * 8);
}

// Every rank makes the bias of its queries: not a byte of it is sent.
TEST(DecoderSequence, MasksSendNothing) {
  const nlohmann::json mask = {{"attention_mask", {{"window", 2}, {"global", {0}}}}};
  for (const char* axis : {"ring", "ulysses"}) EXPECT_EQ(traffic_over(axis, mask), traffic_over(axis));
}

}  // namespace
}  // namespace axial::models
