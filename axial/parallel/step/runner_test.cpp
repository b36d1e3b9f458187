// SPDX-License-Identifier: Apache-2.0
// The runner against plain autograd; grouping and recompute must not change a bit.
#include "axial/parallel/step/runner.h"

#include <gtest/gtest.h>

#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/step/test_chain.h"

namespace axial::parallel {
namespace {

using test::Chain;

std::vector<NamedTensors> uneven_batches(const Chain& chain, at::ScalarType dtype = at::kDouble) {
  return {chain.batch(3, 1, at::kCPU, dtype), chain.batch(1, 2, at::kCPU, dtype),
          chain.batch(4, 3, at::kCPU, dtype)};
}

// Sums of about 8 rows x 8 widths of order-one terms in fp64, in another order: 1e-14 relative is ample.
TEST(StepRunner, MatchesPlainAutograd) {
  Chain chain(5);
  const std::vector<NamedTensors> batches = uneven_batches(chain);
  const double loss_gradient = 3.0 / 8.0;
  const std::vector<at::Tensor> expected = chain.reference_gradients(batches, loss_gradient);
  for (const int64_t group : {0, 1, 2, 3, 100}) {
    for (const int64_t keep : {0, 1}) {
      const std::vector<at::Tensor> grads =
          chain.runner_gradients(batches, loss_gradient, {group, keep, keep});
      for (size_t i = 0; i < grads.size(); ++i) {
        const double scale = expected[i].abs().max().item<double>();
        ASSERT_GT(scale, 1e-3);
        EXPECT_LT((grads[i] - expected[i]).abs().max().item<double>(), 1e-14 * scale)
            << chain.table.rows()[i]->spec.name << " group " << group;
      }
    }
  }
}

// "shared.weight" is read by five blocks and "e" by six: only a fixed order of sums gives equal bits.
TEST(StepRunner, GroupingNeverChangesABit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    Chain chain(5, at::kCPU, dtype);
    const std::vector<NamedTensors> batches = uneven_batches(chain, dtype);
    const std::vector<at::Tensor> kept = chain.runner_gradients(batches, 0.125, {});
    for (const int64_t group : {1, 2, 3, 4, 100}) {
      const std::vector<at::Tensor> grads = chain.runner_gradients(batches, 0.125, {group, 0, 1});
      for (size_t i = 0; i < grads.size(); ++i) {
        EXPECT_EQ(grads[i].scalar_type(), dtype == at::kDouble ? at::kDouble : at::kFloat);
        EXPECT_TRUE(at::equal(grads[i], kept[i])) << chain.table.rows()[i]->spec.name << " group " << group;
      }
    }
  }
}

TEST(StepRunner, ReportsLossesAndAddsToGradients) {
  Chain chain(2);
  const std::vector<NamedTensors> batches = uneven_batches(chain);
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names());
  const StepPlan plan = write_training_step(5, 3, {2, 1, 1});
  const StepResult first = runner.train(plan, batches, {}, 1.0);
  const at::Tensor once = chain.table.at("shared.weight").grad.clone();
  const StepResult second = runner.train(plan, batches, {}, 1.0);
  EXPECT_TRUE(at::allclose(chain.table.at("shared.weight").grad, once * 2, 1e-14, 0));
  ASSERT_EQ(first.loss_sums.size(), 3u);
  for (size_t m = 0; m < 3; ++m) {
    EXPECT_FALSE(first.loss_sums[m].requires_grad());
    EXPECT_TRUE(at::equal(first.loss_sums[m], second.loss_sums[m]));
    EXPECT_EQ(first.loss_weights[m].item<double>(), static_cast<double>(batches[m].at("x").size(0)));
    const NamedTensors out = runner.infer(batches[m], {}, {"loss_sum", "h", "x"});
    EXPECT_TRUE(at::equal(out.at("loss_sum"), first.loss_sums[m]));
    EXPECT_FALSE(out.at("h").requires_grad());
    EXPECT_TRUE(at::equal(out.at("x"), batches[m].at("x")));
  }
}

TEST(StepRunner, FrozenAndUnusedParametersGetNoGradient) {
  Chain chain(2);
  chain.table.at("layers.0.weight").value.set_requires_grad(false);
  chain.table.declare({"unused", {2}, Initializer::zeros()}).value =
      at::zeros({2}, at::kDouble).requires_grad_();
  chain.blocks[1].parameters.push_back("unused");
  const std::vector<at::Tensor> grads = chain.runner_gradients(uneven_batches(chain), 1.0, {1, 1, 1});
  EXPECT_FALSE(chain.table.at("layers.0.weight").grad.defined());
  EXPECT_FALSE(chain.table.at("unused").grad.defined());
  EXPECT_TRUE(chain.table.at("layers.1.weight").grad.defined());
}

// y = a + w hands the same tensor out as both gradients, expand() one with stride 0: taking either over
// without a copy would let later sums write into the other.
TEST(StepRunner, SharedGradientsAreNotWrittenInPlace) {
  ParameterTable table;
  for (const char* name : {"u", "v", "w"}) table.declare({name, {4}, Initializer::normal(1)});
  table.declare({"s", {1}, Initializer::ones()});
  table.materialize(at::kCPU, at::kDouble, 1);
  const auto value = [&](const char* name) { return table.at(name).value; };
  std::vector<Block> blocks{
      {"first",
       {"x"},
       {"a", "b"},
       {"u", "v"},
       [&](const auto& in, const auto&) {
         return NamedTensors{{"a", in.at("x") * value("u")}, {"b", in.at("x") * value("v")}};
       }},
      {"between",
       {"a"},
       {"d"},
       {},
       [](const auto& in, const auto&) {
         return NamedTensors{{"d", in.at("a") * 3}};
       }},
      {"second",
       {"a", "b"},
       {"c"},
       {"w"},
       [&](const auto& in, const auto&) {
         return NamedTensors{{"c", in.at("a") + in.at("b") + value("w")}};
       }},
      {"third", {"c", "d"}, {"loss_sum", "loss_weight"}, {"s", "w"}, [&](const auto& in, const auto&) {
         const at::Tensor y = in.at("d") + in.at("c") + value("s").expand({4}) + value("w");
         return NamedTensors{{"loss_sum", y.sum()}, {"loss_weight", at::ones({}, at::kDouble)}};
       }}};
  StepRunner runner(blocks, table, {"x"});
  const at::Tensor x = at::arange(1, 5, at::kDouble);
  runner.train(write_training_step(4, 2, {}), {{{"x", x}}, {{"x", x}}}, {}, 1.0);
  EXPECT_TRUE(at::equal(table.at("u").grad, x * 8));
  EXPECT_TRUE(at::equal(table.at("v").grad, x * 2));
  EXPECT_TRUE(at::equal(table.at("w").grad, at::full({4}, 4.0, at::kDouble)));
  EXPECT_TRUE(at::equal(table.at("s").grad, at::full({1}, 8.0, at::kDouble)));
}

TEST(StepRunner, ReducesEveryParameterOnceAndTraces) {
  Chain chain(3);
  const Mesh mesh({{"data", 2}}, 2, 0);
  Communicator ranks(mesh, make_recording_transport(), nullptr, {});
  partition_parameters(chain.table, mesh, 0);
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
  std::string lines;
  double last = 0;
  runner.set_trace([&](const StepPlan& plan, const Action& action, double begin, double end) {
    lines += to_string(plan, action) + "\n";
    EXPECT_LE(last, begin);
    EXPECT_LE(begin, end);
    last = end;
  });
  const StepPlan plan = write_training_step(6, 2, {2, 1, 1});
  runner.train(plan, {chain.batch(2, 1), chain.batch(2, 2)}, {}, 1.0);
  EXPECT_EQ(lines, to_string(plan));
  // One bucket per group with parameters whose last backward it is: embed, three layers, none of the loss;
  // the head's weight is the embedding's.
  EXPECT_EQ(ranks.traffic().at({"data", "all_reduce"}), (Traffic{3, chain.table.num_elements() * 8}));
}

}  // namespace
}  // namespace axial::parallel
