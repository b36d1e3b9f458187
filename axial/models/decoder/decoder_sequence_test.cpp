// SPDX-License-Identifier: Apache-2.0
// Decoders whose rows lie on several ranks: losses and every gradient of a step are those of one rank,
// dropout included; and the mistakes that the field has made with split sequences are noticed.
#include <gtest/gtest.h>

#include <functional>

#include "axial/models/decoder/decoder_case.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/step/runner.h"
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

constexpr int64_t kLength = 13;
constexpr int64_t kElements = 6072;  // of the model of BytesOfAStep

// Three records and padding; one record that goes on.
std::vector<parallel::PackedRow> rows(int64_t length) {
  std::vector<parallel::PackedRow> rows(2);
  for (int64_t i = 0; i < length; ++i) {
    if (i < 10) rows[0].tokens.push_back((i * 5 + 3) % 13);
    rows[1].tokens.push_back((i * i + 1) % 13);
  }
  rows[0].record_starts = {0};
  if (length > 4) rows[0].record_starts = {0, 3, 4};
  rows[1].record_starts = {0};
  rows[1].next_token = 7;
  rows[1].sample_id = 1;
  return rows;
}

/// Sums over all ranks.
struct Step {
  double loss = 0, weight = 0;
  std::map<std::string, at::Tensor> grads;
};

Step take_step(const nlohmann::json& settings, const NamedTensors& batch, const SequenceLayout* layout,
               Communicator* ranks, double loss_gradient) {
  Model model = all_models().at("decoder").build(settings);
  if (ranks) parallel::partition_parameters(*model.parameters, ranks->mesh(), 0);
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  parallel::StepRunner runner(model.blocks_with("loss"), *model.parameters, model.batch_names, ranks);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {});
  parallel::StepContext context{root_key(5), true, nullptr};
  context.sequence = layout;
  const parallel::StepResult result = runner.train(plan, {batch}, context, loss_gradient);
  at::Tensor sums = at::stack({result.loss_sums[0].to(at::kDouble), result.loss_weights[0].to(at::kDouble)});
  if (ranks) sums = ranks->all_reduce(sums, ranks->mesh().batch_axes(), parallel::ReduceOp::kSum);
  Step step{sums[0].item<double>(), sums[1].item<double>(), {}};
  for (const auto& row : model.parameters->rows()) step.grads[row->spec.name] = row->grad;
  return step;
}

/// The largest relative difference of loss, weight and gradients.
double difference(const Step& got, const Step& expected) {
  double worst = std::max(std::abs(got.loss / expected.loss - 1), std::abs(got.weight / expected.weight - 1));
  for (const auto& [name, grad] : expected.grads) {
    const double size = grad.abs().max().item<double>();
    worst = std::max(worst, (got.grads.at(name) - grad).abs().max().item<double>() / size);
  }
  return worst;
}

/// What a wrong program makes of a rank's batch.
using Mistake = std::function<void(NamedTensors&)>;

struct Party {
  std::unique_ptr<Communicator> ranks;
  int64_t length;
  SequenceLayout layout;
  Party(World& world, int64_t ring, int64_t ulysses, int64_t row_length = kLength)
      : ranks(world.make_communicator(
            parallel::Mesh({{"data", 1}, {"pipe", 1}, {"ring", ring}, {"ulysses", ulysses}, {"tensor", 1}},
                           world.size(), world.rank()))),
        length(row_length),
        layout(SequenceLayout::over(ranks->mesh(), length)) {}

  double compare(const nlohmann::json& settings, const Mistake& mistake = {},
                 const std::function<double(const NamedTensors&)>& loss_gradient = {}) {
    const NamedTensors whole = SequenceLayout::whole(length).make_batch(rows(length), 0);
    const double weight = static_cast<double>(parallel::count_labels(rows(length)));
    NamedTensors batch = layout.make_batch(rows(length), 0);
    if (mistake) mistake(batch);
    const double seed = loss_gradient ? loss_gradient(batch) : 1 / weight;
    return difference(take_step(settings, batch, &layout, ranks.get(), seed),
                      take_step(settings, whole, nullptr, nullptr, 1 / weight));
  }
};

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

void shift_labels_after_the_cut(NamedTensors& batch) {
  const at::Tensor tokens = batch.at("tokens"), starts = batch.at("positions") == 0;
  at::Tensor labels = at::full_like(tokens, parallel::kIgnoredLabel);
  const int64_t n = tokens.size(1) - 1;
  labels.narrow(1, 0, n).copy_(at::where(starts.narrow(1, 1, n),
                                         at::full_like(tokens.narrow(1, 1, n), parallel::kIgnoredLabel),
                                         tokens.narrow(1, 1, n)));
  batch["labels"] = labels;
}

void count_positions_from_the_cut(NamedTensors& batch) {
  at::Tensor& positions = batch.at("positions");
  positions = at::arange(positions.size(1), at::kLong).expand(positions.sizes()).contiguous();
}

void forget_records(NamedTensors& batch) {
  batch.at("record_starts") = at::zeros_like(batch.at("record_starts"));
}

void key_dropout_by_the_cut(NamedTensors& batch) {
  batch.at("row_positions") = at::arange(batch.at("row_positions").size(0), at::kLong);
}

TEST(DecoderSequence, TheFieldsMistakesAreNoticed) {
  const auto outcomes = run_ranks(2, [](World& world) {
    const std::vector<testing::DecoderCase> cases = testing::decoder_cases();
    const auto named = [&](const std::string& name) {
      for (const testing::DecoderCase& c : cases) {
        if (c.name == name) return c.settings;
      }
      throw Error("no case " + name);
    };
    for (const bool zigzag : {true, false}) {
      Party party(world, zigzag ? 2 : 1, zigzag ? 1 : 2);
      const auto caught = [&](const char* what, const char* settings, const Mistake& mistake,
                              const std::function<double(const NamedTensors&)>& seed = {}) {
        const double worst = party.compare(named(settings), mistake, seed);
        require(worst > 1e-4, fmt::format("{} makes a difference of {} only", what, worst));
      };
      caught("labels shifted after sharding", "llama", shift_labels_after_the_cut);
      caught("learned positions restarting per shard", "gpt2", count_positions_from_the_cut);
      caught("rotary positions restarting per shard", "neox", count_positions_from_the_cut);
      caught("attention across records", "bloom", forget_records);
      caught("dropout keyed by the place in the shard", "dropout", key_dropout_by_the_cut);
      // The mean over ranks of each rank's mean loss, where ranks have different numbers of labels.
      caught("loss averaged per rank", "llama", {}, [&](const NamedTensors& batch) {
        const auto own = (batch.at("labels") != parallel::kIgnoredLabel).sum().item<double>();
        return 1 / own / static_cast<double>(world.size());
      });
    }
  });
  EXPECT_EQ(failures(outcomes), "");
}

// Bytes that one of two ranks sends in a whole step: 2 rows of 12 places, of which it holds 6; 2 layers, 6
// query and 2 key/value heads of width 4; fp64.
parallel::Traffic sent(const std::string& axis, const std::string& op) {
  Communicator ranks(parallel::Mesh({{axis, 2}}, 2, 0), parallel::make_recording_transport(), nullptr, {});
  Model model = all_models().at("decoder").build({{"vocab_size", 13},
                                                  {"hidden_size", 24},
                                                  {"num_layers", 2},
                                                  {"num_heads", 6},
                                                  {"num_kv_heads", 2},
                                                  {"head_dim", 4},
                                                  {"ffn_size", 20},
                                                  {"max_positions", 16}});
  parallel::partition_parameters(*model.parameters, ranks.mesh(), 0);
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  EXPECT_EQ(model.parameters->num_elements(), kElements);
  parallel::StepRunner runner = model.runner_with("loss", &ranks);
  const auto layout = SequenceLayout::over(ranks.mesh(), 12);
  runner.set_sequence(layout);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {});
  runner.train(plan, {layout.make_batch(rows(12), 0)}, parallel::StepContext{root_key(5), true, nullptr},
               1.0);
  return ranks.traffic().at({axis, op});
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

}  // namespace
}  // namespace axial::models
