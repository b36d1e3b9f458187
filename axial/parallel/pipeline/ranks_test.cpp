// SPDX-License-Identifier: Apache-2.0
// The runner's test model cut into stages, over real ranks, against plain autograd over the whole model: a
// skip from the first block to all others, a weight that every stage shares, a head tied to the embedding.
#include <gtest/gtest.h>

#include "axial/parallel/pipeline/stages.h"
#include "axial/parallel/replicas/replicas.h"
#include "axial/parallel/step/simulate.h"
#include "axial/parallel/step/test_chain.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using test::Chain;
using testing::require;

constexpr int64_t kDepth = 5;

std::vector<std::vector<std::string>> names_of_blocks() {
  std::vector<std::vector<std::string>> names{{"embed.weight"}};
  for (int64_t i = 0; i < kDepth; ++i) {
    const std::string layer = "layers." + std::to_string(i);
    names.push_back({"shared.weight", layer + ".weight", layer + ".bias"});
  }
  names.push_back({"head.weight"});
  names.emplace_back();
  return names;
}

struct Case {
  int64_t per_rank = 1;
  int64_t micro_batches = 3;
  PipeSchedule schedule = PipeSchedule::kOneForwardOneBackward;
  MemoryPolicy policy;
  int64_t data = 1;
};

std::string text_of(const Case& c) {
  return fmt::format("{} stages a rank, {} micro-batches, {}, recompute {}, ZeRO {}, data {}", c.per_rank,
                     c.micro_batches, c.schedule == PipeSchedule::kGPipe ? "GPipe" : "1F1B",
                     c.policy.recompute_group, c.policy.zero_stage, c.data);
}

std::vector<NamedTensors> batches_of(const Chain& chain, int64_t data_rank, int64_t count) {
  std::vector<NamedTensors> out;
  for (int64_t m = 0; m < count; ++m) {
    out.push_back(chain.batch(1 + (data_rank + m) % 3, static_cast<uint64_t>(100 * data_rank + m)));
  }
  return out;
}

void check_case(World& world, const Case& c) {
  const int64_t degree = world.size() / c.data;
  const Mesh mesh({{"data", c.data}, {"pipe", degree}}, world.size(), world.rank());
  const auto ranks = world.make_communicator(mesh);
  Chain whole(kDepth);
  std::vector<NamedTensors> all;
  for (int64_t d = 0; d < c.data; ++d) {
    for (NamedTensors& batch : batches_of(whole, d, c.micro_batches)) all.push_back(std::move(batch));
  }
  const std::vector<at::Tensor> expected = whole.reference_gradients(all, 0.25);
  const std::vector<at::Tensor> same_bits = whole.runner_gradients(all, 0.25, c.policy);

  const Stages stages = Stages::balanced(std::vector<int64_t>(kDepth + 3, 1), degree, c.per_rank);
  Chain chain(kDepth, at::kCPU, at::kDouble, [&](ParameterTable& table) {
    place_stages(table, names_of_blocks(), stages, mesh);
    partition_parameters(table, mesh, c.policy.zero_stage);
  });
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), ranks.get());
  runner.set_stages(stages);
  const StepPlan plan =
      write_training_step(stages, runner.pipe_rank(), c.micro_batches, c.policy, c.schedule);
  const StepResult result =
      runner.train(plan, batches_of(chain, mesh.coordinate("data"), c.micro_batches), {}, 0.25);
  const bool is_last = stages.rank_of_block(kDepth + 2) == runner.pipe_rank();
  require((result.loss_sums[0].item<double>() != 0) == is_last, "the loss is elsewhere: " + text_of(c));
  for (size_t i = 0; i < expected.size(); ++i) {
    const Parameter& row = *chain.table.rows()[i];
    const std::string what = fmt::format("gradient of '{}', {}", row.spec.name, text_of(c));
    const auto& holders = row.stage_ranks;
    if (std::find(holders.begin(), holders.end(), runner.pipe_rank()) == holders.end()) {
      require(row.value.numel() == 0 && !row.grad.defined(), "rank without stage: " + what);
      continue;
    }
    const auto held = [&](const at::Tensor& t) {
      return t.reshape({-1})
          .slice(0, row.holding.flat_begin, row.holding.flat_end)
          .view(row.holding.held_shape());
    };
    require(row.grad.defined() && at::allclose(row.grad, held(expected[i]), 1e-11, 1e-13), what);
    // The same sums in the same order, but where stages or data ranks are summed.
    if (holders.size() == 1 && c.data == 1)
      require(at::equal(row.grad, held(same_bits[i])), "bits of the " + what);
  }
  const NamedTensors batch = chain.batch(4, 9);
  StepRunner trunk({chain.blocks.begin(), chain.blocks.end() - 1}, chain.table, Chain::batch_names(),
                   ranks.get());
  trunk.set_stages(stages.without_last_block());  // a rank may have nothing to do
  const at::Tensor y = trunk.infer(batch, {}, {"y"}).at("y");
  StepRunner plain(whole.blocks, whole.table, Chain::batch_names());
  require(at::equal(y, plain.infer(batch, {}, {"y"}).at("y")),
          "inference without the last block, " + text_of(c));
  for (const char* name : {"y", "h", "loss_sum", "x"}) {
    require(at::equal(runner.infer(batch, {}, {name}).at(name), plain.infer(batch, {}, {name}).at(name)),
            fmt::format("inference of '{}', {}", name, text_of(c)));
  }
}

void check_cases(World& world) {
  const int64_t most = (kDepth + 3) / world.size();
  for (const PipeSchedule schedule : {PipeSchedule::kGPipe, PipeSchedule::kOneForwardOneBackward}) {
    for (int64_t v = 1; v <= std::min<int64_t>(most, 3); ++v) {
      for (const int64_t m : {1, 2, 3, 5}) {
        for (const int64_t recompute : {0, 2}) {
          MemoryPolicy policy;
          policy.recompute_group = recompute;
          check_case(world, {v, m, schedule, policy});
        }
      }
    }
  }
}

TEST(PipelineRanks, TwoRanks) { EXPECT_EQ(testing::failures(testing::run_ranks(2, check_cases)), ""); }
TEST(PipelineRanks, FourRanks) { EXPECT_EQ(testing::failures(testing::run_ranks(4, check_cases)), ""); }
TEST(PipelineRanks, OverLinesThatMustBeConnected) {
  EXPECT_EQ(testing::failures(testing::run_ranks(4, check_cases, {.connect_sends = true})), "");
}
TEST(PipelineRanks, ARankPerBlock) { EXPECT_EQ(testing::failures(testing::run_ranks(8, check_cases)), ""); }

// Per micro-batch of 2 rows, in fp64: h and e [2, 8] and shift [8] cross the border, 40 elements, and their
// gradients come back; per step the gradients of the weights of both stages, shared [8, 8] and embed [5, 8],
// 104 elements, go to the first stage and their sums back.
void check_bytes(World& world) {
  const Mesh mesh({{"data", 1}, {"pipe", 2}}, 2, world.rank());
  const auto ranks = world.make_communicator(mesh);
  const Stages stages{{{0, 4}, {4, 8}}, 2};
  Chain chain(kDepth, at::kCPU, at::kDouble, [&](ParameterTable& table) {
    place_stages(table, names_of_blocks(), stages, mesh);
    partition_parameters(table, mesh, 0);
  });
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), ranks.get());
  runner.set_stages(stages);
  for (const int64_t m : {1, 3}) {
    ranks->clear_traffic();
    const std::vector<NamedTensors> batches(static_cast<size_t>(m), chain.batch(2, 1));
    runner.train(write_training_step(stages, world.rank(), m, {}), batches, {}, 1.0);
    const Traffic sent = ranks->traffic().at({"pipe", "send"}),
                  control = ranks->traffic().at({"pipe", "control"});
    require(sent == Traffic{3 * m + 2, 320 * m + 832, 0},
            fmt::format("{} sends of {} bytes with {} micro-batches", sent.calls, sent.bytes, m));
    require(control == Traffic{2 * m, 384 * m, 0}, fmt::format("{} bytes of shapes", control.bytes));
    int64_t held = 0;
    for (const auto& row : chain.table.rows()) held += static_cast<int64_t>(row->value.nbytes());
    // Weights [8, 8] and biases [8]: shared and embed on both, layers 0 to 2 and 3 to 4.
    require(held == (world.rank() == 0 ? 832 + 3 * 576 : 832 + 2 * 576),
            fmt::format("{} bytes of values", held));
    chain.table.clear_gradients();
  }
}

TEST(PipelineRanks, BytesOfAStep) { EXPECT_EQ(testing::failures(testing::run_ranks(2, check_bytes)), ""); }

void check_zero(World& world) {
  for (const int64_t zero : {0, 1, 2, 3}) {
    for (const int64_t recompute : {0, 2}) {
      MemoryPolicy policy;
      policy.recompute_group = recompute;
      policy.zero_stage = zero;
      check_case(world, {2, 3, PipeSchedule::kOneForwardOneBackward, policy, 2});
      check_case(world, {1, 3, PipeSchedule::kGPipe, policy, 2});
    }
  }
}

TEST(PipelineRanks, WithDataRanksAndEveryZeroStage) {
  EXPECT_EQ(testing::failures(testing::run_ranks(4, check_zero)), "");
}

}  // namespace
}  // namespace axial::parallel
