// SPDX-License-Identifier: Apache-2.0
// Data parallelism and every ZeRO stage over the runner's test model: gradients, memory, traffic and the
// overlap of gathers, against plain autograd over the whole batch.
#include "axial/parallel/replicas/replicas.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/step/test_chain.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using test::Chain;
using testing::require;

constexpr int64_t kDepth = 3;
constexpr int64_t kBlocks = kDepth + 3;

Mesh data_mesh(int64_t size, int64_t rank) { return Mesh({{"data", size}, {"tensor", 1}}, size, rank); }

std::function<void(ParameterTable&)> partitioned(const Mesh& mesh, int64_t stage) {
  return [mesh, stage](ParameterTable& table) { partition_parameters(table, mesh, stage); };
}

MemoryPolicy policy_of(int64_t stage, int64_t recompute) {
  MemoryPolicy policy;
  policy.zero_stage = stage;
  policy.recompute_group = recompute;
  return policy;
}

// Elements [flat_begin, flat_end) of the whole reference.
at::Tensor held(const Parameter& row, const at::Tensor& whole) {
  return whole.reshape({-1})
      .slice(0, row.holding.flat_begin, row.holding.flat_end)
      .view(row.holding.held_shape());
}

// Rank r of n brings micro-batches of 1 + (r + m) % 3 rows each: nothing is even, all seeds differ.
std::vector<NamedTensors> batches_of(const Chain& chain, int64_t rank, int64_t count) {
  std::vector<NamedTensors> out;
  for (int64_t m = 0; m < count; ++m) {
    out.push_back(chain.batch(1 + (rank + m) % 3, static_cast<uint64_t>(100 * rank + m)));
  }
  return out;
}

void check_gradients(World& world, int64_t stage, int64_t recompute, int64_t micro_batches) {
  const Mesh mesh = data_mesh(world.size(), world.rank());
  const auto ranks = world.make_communicator(mesh);
  Chain whole(kDepth);
  std::vector<NamedTensors> all;
  for (int64_t r = 0; r < world.size(); ++r) {
    for (NamedTensors& batch : batches_of(whole, r, micro_batches)) all.push_back(std::move(batch));
  }
  const std::vector<at::Tensor> expected = whole.reference_gradients(all, 0.25);

  Chain chain(kDepth, at::kCPU, at::kDouble, partitioned(mesh, stage));
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), ranks.get());
  const StepPlan plan = write_training_step(kBlocks, micro_batches, policy_of(stage, recompute));
  runner.train(plan, batches_of(chain, world.rank(), micro_batches), {}, 0.25);
  for (size_t i = 0; i < expected.size(); ++i) {
    const Parameter& row = *chain.table.rows()[i];
    require(row.grad.defined() && at::allclose(row.grad, held(row, expected[i]), 1e-11, 1e-13),
            fmt::format("gradient of '{}' with ZeRO {} recompute {} micro-batches {}", row.spec.name, stage,
                        recompute, micro_batches));
    require(!row.local_grad.defined(), "a local gradient is left");
    if (stage == 3) require(row.value.storage().nbytes() == 0, "a value is left whole");
  }
}

void check_all(World& world) {
  for (const int64_t stage : {0, 1, 2, 3}) {
    for (const int64_t recompute : {0, 2}) {
      for (const int64_t micro_batches : {1, 3}) check_gradients(world, stage, recompute, micro_batches);
    }
  }
}

TEST(Replicas, GradientsOfTwoRanks) { EXPECT_EQ(testing::failures(testing::run_ranks(2, check_all)), ""); }

TEST(Replicas, GradientsOfFiveRanksWithEmptyPieces) {
  EXPECT_EQ(testing::failures(testing::run_ranks(5, check_all)), "");
}

// DeepSpeed #6868: gradients that are not summed over an axis leave ranks with different weights. The
// comparison with plain autograd that every other test makes sees it.
void check_unsummed(World& world) {
  const Mesh mesh({{"data", 1}, {"ulysses", world.size()}}, world.size(), world.rank());
  const auto ranks = world.make_communicator(mesh);
  const auto gradients = [&](bool summed) {
    Chain chain(kDepth, at::kCPU, at::kDouble, [&](ParameterTable& table) {
      partition_parameters(table, mesh, 0);
      for (const auto& row : table.rows()) {
        if (!summed) std::erase(row->replica_axes, "ulysses");
      }
    });
    StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), ranks.get());
    runner.train(write_training_step(kBlocks, 1, {}), batches_of(chain, world.rank(), 1), {}, 0.25);
    return chain.table.rows()[0]->grad;
  };
  Chain whole(kDepth);
  std::vector<NamedTensors> all;
  for (int64_t r = 0; r < world.size(); ++r) all.push_back(batches_of(whole, r, 1)[0]);
  const at::Tensor expected = whole.reference_gradients(all, 0.25)[0];
  require(at::allclose(gradients(true), expected, 1e-11, 1e-13), "summed gradients");
  const at::Tensor wrong = gradients(false);
  require(!at::allclose(wrong, expected, 1e-2, 1e-3), "gradients that nobody summed look right");
  const at::Tensor largest = ranks->all_reduce(wrong, {"ulysses"}, ReduceOp::kMax);
  const at::Tensor least = ranks->all_reduce(-wrong, {"ulysses"}, ReduceOp::kMax).neg();
  require(!at::allclose(largest, least, 1e-2, 1e-3), "ranks agree on gradients that nobody summed");
}

TEST(Replicas, GradientsThatAreNotSummedAreSeen) {
  EXPECT_EQ(testing::failures(testing::run_ranks(2, check_unsummed)), "");
}

// One micro-batch and two ranks: every sum has two terms, so all stages give the same bits.
void check_equal_bits(World& world) {
  const Mesh mesh = data_mesh(2, world.rank());
  const auto ranks = world.make_communicator(mesh);
  std::vector<at::Tensor> first;
  for (const int64_t stage : {0, 1, 2, 3}) {
    Chain chain(kDepth, at::kCPU, at::kFloat, partitioned(mesh, stage));
    StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), ranks.get());
    runner.train(write_training_step(kBlocks, 1, policy_of(stage, 0)),
                 {chain.batch(3, static_cast<uint64_t>(world.rank()), at::kCPU, at::kFloat)}, {}, 1.0);
    for (size_t i = 0; i < chain.table.rows().size(); ++i) {
      const Parameter& row = *chain.table.rows()[i];
      if (stage == 0) first.push_back(row.grad);
      require(at::equal(row.grad, held(row, first[i])), "bits of '" + row.spec.name + "'");
    }
  }
}

TEST(Replicas, StagesAreBitEqualAtTwoRanks) {
  EXPECT_EQ(testing::failures(testing::run_ranks(2, check_equal_bits)), "");
}

// An "update" of the held parts must reach everybody's values, and inference must see it.
void check_publish(World& world) {
  const Mesh mesh = data_mesh(world.size(), world.rank());
  const auto ranks = world.make_communicator(mesh);
  for (const int64_t stage : {1, 2, 3}) {
    for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16}) {
      Chain whole(kDepth, at::kCPU, dtype);
      Chain chain(kDepth, at::kCPU, dtype, partitioned(mesh, stage));
      const at::NoGradGuard no_grad;
      for (const auto& row : whole.table.rows()) row->value.mul_(2);
      for (const auto& row : chain.table.rows()) row->part().mul_(2);
      StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), ranks.get());
      runner.publish();
      const NamedTensors batch = chain.batch(2, 5, at::kCPU, dtype);
      StepRunner plain(whole.blocks, whole.table, Chain::batch_names());
      require(at::equal(runner.infer(batch, {}, {"y"}).at("y"), plain.infer(batch, {}, {"y"}).at("y")),
              fmt::format("inference after an update, ZeRO {}", stage));
      for (size_t i = 0; i < whole.table.rows().size(); ++i) {
        if (stage == 3) continue;
        require(at::equal(chain.table.rows()[i]->value, whole.table.rows()[i]->value), "published values");
      }
    }
  }
}

TEST(Replicas, UpdatesReachEveryRank) {
  EXPECT_EQ(testing::failures(testing::run_ranks(3, check_publish)), "");
}

// P = 5 * 8 + 8 * 8 + 3 * (8 * 8 + 8) = 320 elements; all sizes divide by 4, so nothing is padded.
constexpr int64_t kElements = 320;
constexpr int64_t kTied = 5 * 8;  // embed.weight, read by the first and the last-but-one group

struct Counted {
  std::map<std::pair<std::string, std::string>, Traffic> traffic;
  int64_t value_bytes = 0, shard_bytes = 0, grad_bytes = 0;
};

Counted counted_step(int64_t stage, int64_t micro_batches) {
  const Mesh mesh = data_mesh(4, 1);
  Communicator ranks(mesh, make_recording_transport(), nullptr, {});
  Chain chain(kDepth, at::kCPU, at::kFloat, partitioned(mesh, stage));
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
  std::vector<NamedTensors> batches(static_cast<size_t>(micro_batches),
                                    chain.batch(2, 1, at::kCPU, at::kFloat));
  runner.train(write_training_step(kBlocks, micro_batches, policy_of(stage, 0)), batches, {}, 1.0);
  Counted out;
  for (const auto& row : chain.table.rows()) {
    out.value_bytes += static_cast<int64_t>(row->value.storage().nbytes());
    if (row->shard.defined()) out.shard_bytes += static_cast<int64_t>(row->shard.nbytes());
    out.grad_bytes += static_cast<int64_t>(row->grad.nbytes());
  }
  runner.publish();
  out.traffic = ranks.traffic();
  return out;
}

int64_t bytes_of(const Counted& counted, const char* op) {
  const auto found = counted.traffic.find({"data", op});
  return found == counted.traffic.end() ? 0 : found->second.bytes;
}

// fp32: 4 bytes an element. All-reduce sends 2 * 3/4, reduce-scatter and all-gather 3/4 of the payload.
TEST(Replicas, BytesPerStepAreThoseOfZero) {
  for (const int64_t m : {1, 3}) {
    EXPECT_EQ(bytes_of(counted_step(0, m), "all_reduce"), 2 * 960);
    EXPECT_EQ(bytes_of(counted_step(0, m), "all_gather"), 0);
    EXPECT_EQ(bytes_of(counted_step(1, m), "reduce_scatter"), 960);
    EXPECT_EQ(bytes_of(counted_step(1, m), "all_gather"), 960);
    EXPECT_EQ(bytes_of(counted_step(2, m), "reduce_scatter"), m * 960);
    EXPECT_EQ(bytes_of(counted_step(2, m), "all_gather"), 960);
    EXPECT_EQ(bytes_of(counted_step(3, m), "reduce_scatter"), m * 960);
  }
  static_assert(kElements * 4 * 3 / 4 == 960);
  // Forward and backward fetch everything; the tied weight twice each, what neighbours share once.
  const int64_t fetched = 2 * (kElements + kTied);
  EXPECT_EQ(fetched * 4 * 3 / 4, 2160);
  EXPECT_EQ(bytes_of(counted_step(3, 1), "all_gather"), 2160);
  // The first block stays between a backward and the next micro-batch's forward: twice kTied less.
  EXPECT_EQ(bytes_of(counted_step(3, 3), "all_gather"), 6240);
}

TEST(Replicas, BytesPerRankAreThoseOfZero) {
  const Counted zero = counted_step(0, 1), one = counted_step(1, 1), two = counted_step(2, 1),
                three = counted_step(3, 1);
  EXPECT_EQ(zero.value_bytes, 1280);
  EXPECT_EQ(zero.grad_bytes, 1280);
  EXPECT_EQ(one.value_bytes, 1280);
  EXPECT_EQ(one.grad_bytes, 320);
  EXPECT_EQ(two.value_bytes, 1280);
  EXPECT_EQ(two.grad_bytes, 320);
  EXPECT_EQ(three.value_bytes, 0);
  EXPECT_EQ(three.shard_bytes, 320);
  EXPECT_EQ(three.grad_bytes, 320);
}

// The most that gradients take at once, buffers of sums under way left out, of two micro-batches over 4
// ranks: whole with stage 0 and 1, because they are summed once, after the last backward; with 2 and 3 a
// quarter (of the embedding, 5 x 8, whole: its sum of the micro-batch before is under way), those of one
// layer (8 x 8 and 8), and the two weights that several blocks read (5 x 8 and 8 x 8), which wait for the
// last of these. Gradients are fp32, also those of bf16 values.
TEST(Replicas, GradientsInMemoryAreThoseOfZero) {
  const auto peak_of = [](int64_t stage, at::ScalarType dtype) {
    const Mesh mesh = data_mesh(4, 1);
    Communicator ranks(mesh, make_recording_transport(), nullptr, {});
    ops::MemoryCount memory;
    Chain chain(kDepth, at::kMeta, dtype, partitioned(mesh, stage));
    StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
    runner.train(write_training_step(kBlocks, 2, policy_of(stage, 0)),
                 {chain.batch(2, 1, at::kMeta, dtype), chain.batch(2, 2, at::kMeta, dtype)}, {}, 1.0);
    return memory.peak(ops::MemoryUse::kGradients);
  };
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    EXPECT_EQ(peak_of(0, dtype), 1280) << dtype;
    EXPECT_EQ(peak_of(1, dtype), 1280) << dtype;
    EXPECT_EQ(peak_of(2, dtype), 320 - 40 + 160 + 4 * (64 + 8) + 4 * (40 + 64)) << dtype;
    EXPECT_EQ(peak_of(3, dtype), 320 - 40 + 160 + 4 * (64 + 8) + 4 * (40 + 64)) << dtype;
  }
}

TEST(Replicas, PlansThatUseValuesWithoutGatherAreRefused) {
  const Mesh mesh = data_mesh(4, 1);
  Communicator ranks(mesh, make_recording_transport(), nullptr, {});
  Chain chain(kDepth, at::kCPU, at::kFloat, partitioned(mesh, 3));
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
  const NamedTensors batch = chain.batch(2, 1, at::kCPU, at::kFloat);
  EXPECT_THROW(runner.train(write_training_step(kBlocks, 1, {}), {batch}, {}, 1.0), ValueError);
  StepPlan plan = write_training_step(kBlocks, 1, policy_of(3, 0));
  plan.actions.pop_back();
  std::erase_if(plan.actions, [](const Action& a) { return a.kind == ActionKind::kRelease && a.group == 2; });
  EXPECT_THROW(runner.train(plan, {batch}, {}, 1.0), ValueError);
  EXPECT_THROW(Chain(1, at::kCPU, at::kFloat, partitioned(mesh, 4)), ValueError);
}

// The trace of a real step: the gather of group i + 1 is issued before the forward of group i ends, and on
// the way back that of group i - 1 before the backward of group i does.
TEST(Replicas, GathersOverlapWithCompute) {
  const Mesh mesh = data_mesh(2, 0);
  Communicator ranks(mesh, make_recording_transport(), nullptr, {});
  Chain chain(kDepth, at::kCPU, at::kFloat, partitioned(mesh, 3));
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
  std::map<int64_t, double> gathered, again, computed, went_back;
  runner.set_trace([&](const StepPlan&, const Action& action, double begin, double end) {
    if (action.kind == ActionKind::kGather)
      (gathered.contains(action.group) ? again : gathered)[action.group] = begin;
    if (action.kind == ActionKind::kForward) computed[action.group] = end;
    if (action.kind == ActionKind::kBackward) went_back[action.group] = end;
  });
  runner.train(write_training_step(kBlocks, 1, policy_of(3, 0)), {chain.batch(2, 1, at::kCPU, at::kFloat)},
               {}, 1.0);
  for (int64_t g = 0; g + 1 < kBlocks; ++g) EXPECT_LT(gathered.at(g + 1), computed.at(g)) << g;
  EXPECT_FALSE(again.empty());
  for (const auto& [g, begin] : again) EXPECT_LT(begin, went_back.at(g + 1)) << g;
}

}  // namespace
}  // namespace axial::parallel
