// SPDX-License-Identifier: Apache-2.0
// Token parts in tiles give what they give at once: any tile, any grouping, any micro-batches; and they run
// as often as they must.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>
#include <string>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/step/runner.h"

namespace axial::parallel {
namespace {

constexpr int64_t kWidth = 6, kDepth = 4;

/// h, e, shift = of x; then `kDepth` times a sum over positions and a token part with skips, a
/// weight that both parts read, a batch tensor of each kind, and a second output; a squared error by tokens
/// alone.
class TokenChain {
 public:
  explicit TokenChain(at::Device device = at::kCPU, at::ScalarType dtype = at::kDouble) {
    table.declare({"embed.weight", {kWidth, kWidth}, Initializer::normal(0.5)});
    table.declare({"shared.weight", {kWidth, kWidth}, Initializer::normal(0.3)});
    for (int64_t i = 0; i < kDepth; ++i) {
      table.declare({weight_name(i), {kWidth, kWidth}, Initializer::normal(0.3)});
    }
    table.materialize(device, dtype, 3);
    blocks.push_back(embed());
    for (int64_t i = 0; i < kDepth; ++i) blocks.push_back(layer(i));
    blocks.push_back(loss());
  }

  static std::vector<std::string> batch_names() { return {"x", "tags", "places", "ids"}; }

  static NamedTensors batch(int64_t rows, int64_t length, double salt, at::Device device = at::kCPU,
                            at::ScalarType dtype = at::kDouble) {
    const auto options = at::TensorOptions(dtype).device(device);
    const auto drawn = [&](at::IntArrayRef shape, double more) {
      return at::arange(c10::multiply_integers(shape), at::kDouble)
          .mul_(1.7)
          .add_(salt + more)
          .sin_()
          .view(shape)
          .to(options);
    };
    return {{"x", drawn({rows, length, kWidth}, 0)},
            {"tags", drawn({rows, length}, 1)},
            {"places", drawn({length}, 2)},
            {"ids", drawn({rows}, 3)}};
  }

  std::vector<at::Tensor> gradients(const std::vector<NamedTensors>& batches, const MemoryPolicy& policy) {
    table.clear_gradients();
    calls.clear();
    StepRunner runner(blocks, table, batch_names());
    const auto plan = write_training_step(static_cast<int64_t>(blocks.size()),
                                          static_cast<int64_t>(batches.size()), policy);
    losses = runner.train(plan, batches, {}, 0.25).loss_sums;
    std::vector<at::Tensor> grads;
    for (const auto& row : table.rows()) grads.push_back(row->grad);
    return grads;
  }

  ParameterTable table;
  std::vector<Block> blocks;
  std::vector<at::Tensor> losses;
  std::map<std::string, int64_t> calls;  // of token parts

 private:
  static std::string weight_name(int64_t i) { return "layers." + std::to_string(i) + ".weight"; }

  at::Tensor value(const std::string& name) { return table.at(name).value; }

  Block embed() {
    return {"embed", {"x"}, {"h", "e", "shift"}, {"embed.weight"}, [this](const auto& in, const auto&) {
              const at::Tensor h = in.at("x").matmul(value("embed.weight")).tanh();
              return NamedTensors{{"h", h}, {"e", h * 0.5}, {"shift", value("embed.weight").sum(0)}};
            }};
  }
  Block layer(int64_t i) {
    Block block{"layers." + std::to_string(i),
                {"h", "e", "shift", "tags", "places", "ids"},
                {"h", "e"},
                {"shared.weight", weight_name(i)},
                [this](const auto& in, const auto&) {
                  const at::Tensor own = in.at("h").matmul(value("shared.weight"));
                  const at::Tensor mixed = (own + own.sum(1, true)).tanh();
                  return NamedTensors{{"mixed", mixed}, {"gate", in.at("e") * 2}};
                },
                {"mixed", "gate"}};
    TokenPart& part = block.tokens.emplace();
    part.reads = {{"mixed", Positions::kStream},  {"gate", Positions::kStream}, {"h", Positions::kStream},
                  {"e", Positions::kStream},      {"shift", Positions::kNone},  {"tags", Positions::kRows},
                  {"places", Positions::kShared}, {"ids", Positions::kNone}};
    part.writes = {{"h", Positions::kStream}, {"e", Positions::kStream}};
    part.forward = [this, i, name = block.name](const auto& in, const auto&) {
      ++calls[name];
      const at::Tensor mine = in.at("tags") + in.at("places") * in.at("ids").unsqueeze(1);
      // Sums over the width by themselves, not a product: its order would depend on the number of rows.
      const at::Tensor fed =
          (in.at("mixed").unsqueeze(-1) * value(weight_name(i)) * value("shared.weight")).sum(-2);
      const at::Tensor h = in.at("h") + fed * in.at("gate") + in.at("shift") * mine.unsqueeze(-1);
      return NamedTensors{{"h", h}, {"e", in.at("e") + h * 0.1}};
    };
    return block;
  }
  Block loss() {
    Block block{"loss", {"h", "e", "tags"}, {"loss_sum", "loss_weight"}, {}, {}};
    TokenPart& part = block.tokens.emplace();
    part.reads = {{"h", Positions::kStream}, {"e", Positions::kStream}, {"tags", Positions::kRows}};
    part.writes = {{"loss_sum", Positions::kSum}, {"loss_weight", Positions::kSum}};
    part.forward = [this](const auto& in, const auto&) {
      ++calls["loss"];
      const at::Tensor off = in.at("h") + in.at("e") - in.at("tags").unsqueeze(-1);
      const auto options = off.options().requires_grad(false);
      return NamedTensors{{"loss_sum", (off * off).sum()},
                          {"loss_weight", at::full({}, static_cast<double>(in.at("tags").numel()), options)}};
    };
    return block;
  }
};

constexpr int64_t kLength = 11;

std::vector<NamedTensors> uneven_batches() {
  return {TokenChain::batch(3, kLength, 1), TokenChain::batch(1, 5, 2), TokenChain::batch(2, 1, 3)};
}

// Plain autograd without runner: about 60 terms of order one per element of a gradient, in another order.
TEST(StepRunnerTiles, EqualPlainAutograd) {
  TokenChain chain;
  const std::vector<NamedTensors> batches = uneven_batches();
  at::Tensor total = at::zeros({}, at::kDouble);
  for (const NamedTensors& batch : batches) {
    NamedTensors stream = batch;
    for (const Block& block : chain.blocks) {
      NamedTensors inputs;
      for (const std::string& name : block.inputs) inputs[name] = stream.at(name);
      for (auto& [name, tensor] : run_block(block, inputs, {})) stream[name] = tensor;
    }
    total = total + stream.at("loss_sum");
  }
  std::vector<at::Tensor> values;
  for (const auto& row : chain.table.rows()) values.push_back(row->value);
  const auto expected = torch::autograd::grad({total * 0.25}, values);
  for (const int64_t tile : {0, 1, 3, 10, 11, 100}) {
    for (const int64_t group : {0, 1, 2, 100}) {
      for (const int64_t keep : {0, 1}) {
        MemoryPolicy policy{group, keep, keep};
        policy.tile_tokens = tile;
        const auto grads = chain.gradients(batches, policy);
        for (size_t i = 0; i < grads.size(); ++i) {
          const double scale = expected[i].abs().max().item<double>();
          ASSERT_GT(scale, 1e-3);
          EXPECT_LT((grads[i] - expected[i]).abs().max().item<double>(), 1e-12 * scale)
              << chain.table.rows()[i]->spec.name << " tile " << tile << " group " << group;
        }
      }
    }
  }
}

// A tile as long as the rows is no tile: the bits are those of none. And groups change no bit of tiles.
TEST(StepRunnerTiles, GroupsAndLongTilesChangeNoBit) {
  TokenChain chain;
  const std::vector<NamedTensors> batches = uneven_batches();
  for (const int64_t tile : {0, 3}) {
    MemoryPolicy policy;
    policy.tile_tokens = tile;
    const auto expected = chain.gradients(batches, policy);
    for (const int64_t group : {0, 1, 3, 100}) {
      policy = {group, 0, 1};
      policy.tile_tokens = tile == 0 ? kLength : tile;
      const auto grads = chain.gradients(batches, policy);
      for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(at::equal(grads[i], expected[i])) << group;
    }
  }
}

TEST(StepRunnerTiles, OutputsAreTheSame) {
  TokenChain chain;
  StepRunner runner(chain.blocks, chain.table, TokenChain::batch_names());
  for (const NamedTensors& batch : uneven_batches()) {
    runner.set_inference_tiles(0);
    const NamedTensors expected = runner.infer(batch, {}, {"h", "e", "loss_sum", "loss_weight"});
    for (const int64_t tile : {1, 3, 10, 11, 100}) {
      runner.set_inference_tiles(tile);
      const NamedTensors got = runner.infer(batch, {}, {"h", "e", "loss_sum", "loss_weight"});
      for (const char* name : {"h", "e", "loss_weight"})
        EXPECT_TRUE(at::equal(got.at(name), expected.at(name)));
      EXPECT_NEAR(got.at("loss_sum").item<double>() / expected.at("loss_sum").item<double>(), 1, 1e-14);
      EXPECT_EQ(got.at("loss_sum").sizes(), expected.at("loss_sum").sizes());
    }
  }
}

// Four tiles: forward once and in backward once, and again in a recompute where a later block of the group
// reads what comes out.
TEST(StepRunnerTiles, RunAsOftenAsTheyMust) {
  TokenChain chain;
  const auto calls = [&](int64_t group) {
    MemoryPolicy policy{group, 1, 1};
    policy.tile_tokens = 3;
    chain.gradients({TokenChain::batch(2, kLength, 1)}, policy);
    return chain.calls;
  };
  using Calls = std::map<std::string, int64_t>;
  EXPECT_EQ(calls(0),
            (Calls{{"layers.0", 8}, {"layers.1", 8}, {"layers.2", 8}, {"layers.3", 8}, {"loss", 8}}));
  EXPECT_EQ(calls(1), calls(0));
  EXPECT_EQ(calls(2),
            (Calls{{"layers.0", 12}, {"layers.1", 8}, {"layers.2", 12}, {"layers.3", 8}, {"loss", 8}}));
  EXPECT_EQ(calls(4),
            (Calls{{"layers.0", 12}, {"layers.1", 12}, {"layers.2", 12}, {"layers.3", 8}, {"loss", 8}}));
}

struct Bytes {
  int64_t peak = 0, left = 0;
};

Bytes measure(at::Device device, int64_t group, int64_t tile) {
  ops::MemoryCount counter;
  Bytes bytes;
  {
    TokenChain chain(device, at::kFloat);
    const std::vector<NamedTensors> batches(2, TokenChain::batch(2, 600, 1, device, at::kFloat));
    MemoryPolicy policy{group, 1, 1};
    policy.tile_tokens = tile;
    chain.gradients(batches, policy);
    chain.losses.clear();
    const int64_t before = counter.live();
    counter.reset_peak();
    chain.gradients(batches, policy);
    chain.losses.clear();
    bytes = {counter.peak() - before, counter.live() - before};
  }
  EXPECT_EQ(counter.live(), 0);
  return bytes;
}

// A token part here makes [2, L, 6, 6] twice at least: of tiles only [2, 50, 6, 6].
TEST(StepRunnerTiles, TakeLessMemoryTheSameOnMeta) {
  for (const int64_t group : {0, 1, 2}) {
    const Bytes whole = measure(at::kMeta, group, 0), tiled = measure(at::kMeta, group, 50);
    const Bytes host = measure(at::kCPU, group, 50);
    EXPECT_EQ(tiled.left, 0);
    EXPECT_EQ(host.left, 0);
    EXPECT_EQ(host.peak, tiled.peak);
    const int64_t stream = 2 * 600 * kWidth * 4;
    EXPECT_GT(whole.peak - tiled.peak, 2 * kWidth * stream) << group;
    EXPECT_LT(tiled.peak, measure(at::kMeta, group, 200).peak) << group;
  }
}

std::string message_of(TokenChain& chain) {
  MemoryPolicy policy;
  policy.tile_tokens = 3;
  try {
    chain.gradients({TokenChain::batch(2, kLength, 1)}, policy);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no ValueError";
}

// Replaces what the token part of the first layer gives.
std::string with_part(const std::function<void(NamedTensors& outputs, const NamedTensors& inputs)>& change) {
  TokenChain chain;
  const BlockFunction right = chain.blocks[1].tokens->forward;
  chain.blocks[1].tokens->forward = [&](const NamedTensors& in, const StepContext& context) {
    NamedTensors out = right(in, context);
    change(out, in);
    return out;
  };
  return message_of(chain);
}

using testing::HasSubstr;

TEST(StepRunnerTilesErrors, WrongTokenParts) {
  EXPECT_EQ(with_part([](auto&, const auto&) {}), "no ValueError");
  EXPECT_THAT(with_part([](auto& out, const auto&) { out.erase("e"); }),
              HasSubstr("block 'layers.0' did not return its output 'e'"));
  EXPECT_THAT(
      with_part([](auto& out, const auto&) { out["e"] = out["e"].narrow(1, 0, 2); }),
      HasSubstr("'e' of the token part of block 'layers.0'; expected 3 positions in dim 1 of a tile"));
  EXPECT_THAT(with_part([](auto&, const auto& in) { at::Tensor(in.at("mixed")).detach().mul_(2); }),
              HasSubstr("block 'layers.0' changes its input 'mixed' in place"));
  TokenChain chain;
  chain.blocks[1].parameters = {"shared.weight"};
  EXPECT_THAT(message_of(chain), HasSubstr("uses parameter 'layers.0.weight' without declaring it"));
  TokenChain constant;
  constant.blocks.back().tokens->forward = [](const auto& in, const auto&) {
    const at::Tensor sum = in.at("tags").sum();
    return NamedTensors{{"loss_sum", sum}, {"loss_weight", sum}};
  };
  EXPECT_THAT(message_of(constant), HasSubstr("'loss_sum' depends on no parameter"));
}

TEST(StepRunnerTilesErrors, TokenPartsThatDoNotFitTheirBlock) {
  const auto made = [](const std::function<void(Block&)>& change) {
    TokenChain chain;
    change(chain.blocks[1]);
    return message_of(chain);
  };
  EXPECT_THAT(made([](Block& b) { b.tokens->reads["hh"] = Positions::kStream; }),
              HasSubstr("token part of block 'layers.0' reads 'hh'"));
  EXPECT_THAT(made([](Block& b) { b.tokens->writes.erase("e"); }), HasSubstr("expected it to write 'e'"));
  EXPECT_THAT(made([](Block& b) { b.tokens->writes["f"] = Positions::kStream; }),
              HasSubstr("writes 3 tensors"));
  EXPECT_THAT(made([](Block& b) { b.tokens->forward = {}; }), HasSubstr("has no forward function"));
  EXPECT_THAT(made([](Block& b) { b.forward = {}; }), HasSubstr("expected one that gives 'mixed', 'gate'"));
  EXPECT_THAT(made([](Block& b) { b.between.push_back("h"); }), HasSubstr("'h' twice"));
  EXPECT_THAT(made([](Block& b) { b.tokens.reset(); }), HasSubstr("expected nothing between, got 'mixed'"));
  EXPECT_THAT(made([](Block& b) { b.between.push_back("more"); }),
              HasSubstr("did not return its output 'more'"));
  EXPECT_THROW(write_training_step(3, 1, {.tile_tokens = -1}), ValueError);
  EXPECT_THROW(write_inference_step(3, {.tile_tokens = -1}), ValueError);
}

}  // namespace
}  // namespace axial::parallel
