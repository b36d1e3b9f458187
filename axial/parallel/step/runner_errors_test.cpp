// SPDX-License-Identifier: Apache-2.0
// Every way in which blocks, plans and batches may not fit is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/parallel/step/runner.h"
#include "axial/parallel/step/test_chain.h"

namespace axial::parallel {
namespace {

using test::Chain;

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no ValueError";
}

std::string construct(std::vector<Block> blocks, ParameterTable& table) {
  return message_of([&] { StepRunner(std::move(blocks), table, Chain::batch_names()); });
}

TEST(StepRunnerErrors, BlocksThatDoNotFitTogether) {
  Chain chain(1);
  std::vector<Block> blocks = chain.blocks;
  blocks[2].inputs = {"g"};
  EXPECT_THAT(construct(blocks, chain.table), testing::HasSubstr("block 'head' reads 'g'"));
  blocks = chain.blocks;
  blocks[1].parameters.push_back("layers.0.wieght");
  EXPECT_THAT(construct(blocks, chain.table), testing::HasSubstr("did you mean 'layers.0.weight'?"));
  blocks = chain.blocks;
  blocks[1].name = "embed";
  EXPECT_THAT(construct(blocks, chain.table), testing::HasSubstr("'embed' twice"));
  blocks = chain.blocks;
  blocks[0].outputs.push_back("e");
  EXPECT_THAT(construct(blocks, chain.table), testing::HasSubstr("'e' twice"));
  EXPECT_THAT(construct({}, chain.table), testing::HasSubstr("at least 1"));
}

class PlanErrors : public testing::Test {
 protected:
  std::string train(const StepPlan& plan, int64_t micro_batches = 1) {
    const std::vector<NamedTensors> batches(static_cast<size_t>(micro_batches), chain_.batch(2, 1));
    return message_of(
        [&] { StepRunner(chain_.blocks, chain_.table, Chain::batch_names()).train(plan, batches, {}, 1.0); });
  }
  Chain chain_{1};
  StepPlan plan_ = write_training_step(4, 1, {1, 1, 1});
};

TEST_F(PlanErrors, TheWrittenPlanFits) { EXPECT_EQ(train(plan_), "no ValueError"); }

TEST_F(PlanErrors, GroupsMustCoverTheBlocks) {
  EXPECT_THAT(train(write_training_step(3, 1, {})), testing::HasSubstr("cover 4 blocks, got 3"));
  plan_.groups[1] = {1, 3};
  EXPECT_THAT(train(plan_), testing::HasSubstr("starts at block 3"));
}

TEST_F(PlanErrors, BackwardNeedsItsForward) {
  StepPlan plan = plan_;
  std::erase_if(plan.actions,
                [](const Action& a) { return a.kind == ActionKind::kRecompute && a.group == 2; });
  EXPECT_THAT(train(plan), testing::HasSubstr("'backward mb0 g2 [2,3)'; expected a forward or recompute"));
  plan = plan_;
  std::erase_if(plan.actions, [](const Action& a) { return a.kind == ActionKind::kForward && a.group == 1; });
  EXPECT_THAT(train(plan), testing::HasSubstr("writes 'h', to run, or its output"));
}

TEST_F(PlanErrors, BackwardNeedsTheBackwardOfItsReaders) {
  StepPlan plan = write_training_step(4, 1, {});
  std::swap(plan.actions[6], plan.actions[8]);  // each followed by its reduce
  EXPECT_THAT(train(plan), testing::HasSubstr("expected the backward of g2"));
}

TEST_F(PlanErrors, NothingMayBeLeftOutOrDoneTwice) {
  StepPlan plan = plan_;
  EXPECT_THAT(train(plan, 2), testing::HasSubstr("leaves out the backward of mb1"));
  plan = plan_;
  plan.actions.erase(plan.actions.end() - 2);
  EXPECT_THAT(train(plan), testing::HasSubstr("leaves out the reduce of mb0 g0"));
  plan = plan_;
  plan.actions.push_back(*(plan.actions.end() - 2));
  EXPECT_THAT(train(plan), testing::HasSubstr("expected a backward of its group since the reduce before it"));
  plan = plan_;
  plan.actions.insert(plan.actions.begin(), plan.actions.front());
  EXPECT_THAT(train(plan), testing::HasSubstr("forward twice"));
  plan = plan_;
  plan.actions.insert(plan.actions.begin() + 4, Action{ActionKind::kFree, 0, 0, false});
  EXPECT_THAT(train(plan), testing::HasSubstr("after the free"));
  plan = plan_;
  plan.actions[0].group = 9;
  EXPECT_THAT(train(plan), testing::HasSubstr("[0, 4), got 9"));
  plan = plan_;
  plan.actions[0].micro_batch = 1;
  EXPECT_THAT(train(plan), testing::HasSubstr("micro-batch of [0, 1), got 1"));
}

std::string train_blocks(Chain& chain, const NamedTensors& batch) {
  return message_of([&] {
    StepRunner(chain.blocks, chain.table, Chain::batch_names())
        .train(write_training_step(static_cast<int64_t>(chain.blocks.size()), 1, {1, 0, 1}), {batch}, {},
               1.0);
  });
}

TEST(StepRunner, BatchTensorsThatNoBlockReadsMayBeMissing) {
  Chain chain(1);
  std::vector<std::string> names = Chain::batch_names();
  names.emplace_back("unread");
  StepRunner runner(chain.blocks, chain.table, names);
  EXPECT_NO_THROW(runner.infer(chain.batch(2, 1), {}, {"h"}));
  EXPECT_THROW(runner.infer(chain.batch(2, 1), {}, {"unread"}), ValueError);
}

TEST(StepRunnerErrors, BatchesAndOutputsThatLackATensor) {
  Chain chain(1);
  NamedTensors batch = chain.batch(2, 1);
  batch.erase("scale");
  EXPECT_THAT(train_blocks(chain, batch), testing::HasSubstr("micro-batch 0 lacks the tensor 'scale'"));
  chain.blocks[0].outputs.push_back("extra");
  EXPECT_THAT(train_blocks(chain, chain.batch(2, 1)),
              testing::HasSubstr("block 'embed' did not return its output 'extra'"));
}

TEST(StepRunnerErrors, BlocksThatWouldLoseGradients) {
  Chain chain(1);
  chain.blocks[1].parameters.erase(chain.blocks[1].parameters.begin());
  EXPECT_THAT(train_blocks(chain, chain.batch(2, 1)),
              testing::HasSubstr("uses parameter 'shared.weight' without declaring it"));

  Chain captured(1);
  const at::Tensor leak = at::ones({test::kWidth}, at::kDouble).requires_grad_();
  captured.blocks[1].forward = [&](const NamedTensors& in, const StepContext&) {
    return NamedTensors{{"h", in.at("h") * leak}};
  };
  EXPECT_THAT(train_blocks(captured, captured.batch(2, 1)), testing::HasSubstr("tensor of shape [8]"));

  Chain constant(1);
  constant.blocks[3].forward = [](const NamedTensors&, const StepContext&) {
    return NamedTensors{{"loss_sum", at::zeros({})}, {"loss_weight", at::ones({})}};
  };
  EXPECT_THAT(train_blocks(constant, constant.batch(2, 1)), testing::HasSubstr("depends on no parameter"));
}

TEST(StepRunnerErrors, InputsChangedInPlace) {
  Chain chain(1);
  chain.blocks[2].forward = [](const NamedTensors& in, const StepContext&) {
    at::Tensor h = in.at("h");
    return NamedTensors{{"y", h.add_(1)}};
  };
  EXPECT_THAT(train_blocks(chain, chain.batch(2, 1)),
              testing::HasSubstr("block 'head' changes its input 'h' in place"));
}

TEST(StepRunnerErrors, LossAndWantedNames) {
  Chain chain(1);
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names());
  EXPECT_THAT(message_of([&] { runner.infer(chain.batch(2, 1), {}, {"los_sum"}); }),
              testing::HasSubstr("did you mean 'loss_sum'?"));
  chain.blocks.pop_back();
  EXPECT_THAT(train_blocks(chain, chain.batch(2, 1)), testing::HasSubstr("writes 'loss_sum', got none"));
  Chain bare(1);
  ParameterTable empty;
  for (const auto& row : bare.table.rows()) empty.declare(row->spec);
  empty.alias("head.weight", "embed.weight");
  StepRunner unmade(bare.blocks, empty, Chain::batch_names());
  EXPECT_THAT(message_of([&] { unmade.train(write_training_step(4, 1, {}), {bare.batch(2, 1)}, {}, 1.0); }),
              testing::HasSubstr("is not materialized"));
}

}  // namespace
}  // namespace axial::parallel
