// SPDX-License-Identifier: Apache-2.0
// Inference of a model that ranks hold together: scores, embeddings, generated sequences and a validation
// loss on meshes over every axis are those of one rank.
#include <gtest/gtest.h>

#include "axial/data/packing/row_source.h"
#include "axial/models/common/registry.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/evaluate/evaluate.h"
#include "axial/train/infer/embed.h"
#include "axial/train/infer/generate.h"
#include "axial/train/infer/score.h"
#include "axial/train/load/load.h"
#include "axial/train/testing/compare_runs.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::MeshOptions;
using parallel::World;
using testing::require;

constexpr double kTolerance = 1e-9;
constexpr int64_t kRowLength = 23;

// The one with ALiBi also has tied embeddings and a mask.
nlohmann::json config_of(const std::string& position) {
  nlohmann::json config = {{"vocab_size", 69},     {"hidden_size", 24},  {"num_layers", 4},
                           {"num_heads", 6},       {"num_kv_heads", 2},  {"head_dim", 4},
                           {"ffn_size", 22},       {"init_std", 0.3},    {"head_bias", true},
                           {"position", position}, {"max_positions", 32}};
  if (position == "alibi") {
    config.update({{"tied_embeddings", true}, {"attention_mask", {{"window", 6}, {"global", {0, 4}}}}});
  }
  return config;
}

// A checkpoint of an untrained model, as one rank writes it.
void write_model(const std::filesystem::path& folder, const std::string& position) {
  std::filesystem::create_directories(folder);
  models::Model model = models::all_models().at("decoder").build(config_of(position));
  model.parameters->materialize(at::kCPU, at::kDouble, 5);
  RunState state;
  state.model_type = "decoder";
  state.model_config = model.config;
  state.precision = "fp64";
  write_checkpoint(folder, state, *model.parameters, 1 << 20);
}

std::vector<int32_t> record(int64_t index) {  // from 2 to 75 tokens: longer than a window of 32
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < 2 + (index * 29) % 74; ++i)
    ids.push_back(static_cast<int32_t>((index * 13 + i * i) % 69));
  return ids;
}

class Rows final : public data::RowSource {
 public:
  using RowSource::RowSource;
  int64_t num_rows() const override { return 5; }
  int64_t num_tokens() const override { return 5 * kRowLength; }
  data::SourceRow row(int64_t index) const override {
    data::SourceRow out;
    out.row.record_starts = {0, 4 + index};
    for (int64_t i = 0; i < kRowLength - index; ++i) out.row.tokens.push_back((index * 31 + i * 5) % 69);
    return out;
  }
};

// What inference says of a model.
struct Results {
  std::vector<Score> scores;
  std::vector<std::vector<float>> embeddings;
  std::vector<Generated> sequences;
  double loss = 0;
};

Results infer(const LoadedModel& loaded) {
  Results out;
  WindowOptions windows;
  windows.batch_tokens = 70;
  Scorer scorer(
      loaded.model, windows, [&](const Score& s) { out.scores.push_back(s); }, loaded.ranks);
  Embedder embedder(
      loaded.model, windows, {0},
      [&](const std::string&, std::span<const float> e) { out.embeddings.emplace_back(e.begin(), e.end()); },
      loaded.ranks);
  for (int64_t i = 0; i < 9; ++i) {
    scorer.add("r" + std::to_string(i), record(i));
    embedder.add("r" + std::to_string(i), record(i));
  }
  scorer.finish();
  embedder.finish();
  GenerateOptions options;
  options.count = 7;
  options.max_tokens = 9;
  options.batch = 2;
  options.seed = 3;
  generate(
      loaded.model, {{1, 5, 9}, {0, 1, 2, 3}, {2, 30}, {7}}, options,
      [&](const Generated& g) { out.sequences.push_back(g); }, loaded.ranks);
  parallel::StepRunner runner = loaded.model.runner_with("loss", loaded.ranks);
  const auto layout = parallel::SequenceLayout::over(runner.communicator().mesh(), kRowLength);
  runner.set_sequence(layout);
  EvaluateOptions evaluation;
  evaluation.batch = 2;
  out.loss = evaluate(runner, Rows(layout), evaluation).loss;
  return out;
}

bool near(double a, double b) { return std::abs(a - b) <= kTolerance * std::max(1.0, std::abs(b)); }

void compare(const Results& one, const Results& many, const std::string& what) {
  require(one.scores.size() == 9 && many.scores.size() == 9, what + ": number of scores");
  for (size_t i = 0; i < one.scores.size(); ++i) {
    require(one.scores[i].id == many.scores[i].id && one.scores[i].tokens == many.scores[i].tokens,
            what + ": records");
    require(near(many.scores[i].log_likelihood, one.scores[i].log_likelihood),
            fmt::format("{}: score of {} is {}, expected {}", what, one.scores[i].id,
                        many.scores[i].log_likelihood, one.scores[i].log_likelihood));
  }
  require(one.embeddings.size() == many.embeddings.size(), what + ": number of embeddings");
  for (size_t i = 0; i < one.embeddings.size(); ++i) {
    for (size_t c = 0; c < one.embeddings[i].size(); ++c) {  // written as fp32
      require(std::abs(one.embeddings[i][c] - many.embeddings[i][c]) <= 1e-6, what + ": embedding");
    }
  }
  require(one.sequences.size() == 7 && many.sequences.size() == 7, what + ": number of sequences");
  for (size_t i = 0; i < many.sequences.size(); ++i) {
    const Generated &a = one.sequences[i], &b = many.sequences[i];
    require(a.index == b.index && a.ids == b.ids && a.stop == b.stop,
            fmt::format("{}: sequence {}", what, i));
    require(std::abs(a.log_likelihood - b.log_likelihood) <= 1e-5,
            what + ": likelihood of a sequence");  // of fp32 logits
  }
  require(near(many.loss, one.loss), fmt::format("{}: loss is {}, expected {}", what, many.loss, one.loss));
}

void check(World& world, const std::vector<MeshOptions>& meshes) {
  const axial::testing::TemporaryFolder own;
  const models::ModelRegistry registry = models::all_models();
  for (const std::string position : {"rotary", "alibi"}) {
    write_model(own / position, position);
    LoadOptions options;
    options.dtype = at::kDouble;
    const Results one = infer(load_model(own / position, registry, options));
    for (size_t m = 0; m < meshes.size(); ++m) {
      const auto ranks = world.make_communicator(parallel::make_mesh(meshes[m], world.size(), world.rank()));
      options.ranks = ranks.get();
      options.parallel = meshes[m];
      compare(one, infer(load_model(own / position, registry, options)),
              fmt::format("mesh {} of {}, {}", m, world.size(), position));
    }
  }
}

MeshOptions mesh(int64_t data, int64_t pipe, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                 int64_t stages_per_rank = 1) {
  MeshOptions options{data, pipe, ring, ulysses, tensor, zero, false};
  options.stages_per_rank = stages_per_rank;
  options.replicate_vocabulary_below = 32;
  return options;
}

TEST(InferRanks, AxesOfTwo) {
  EXPECT_EQ(failures(run_ranks(2,
                               [](World& world) {
                                 check(world,
                                       {mesh(2, 1, 1, 1, 1), mesh(2, 1, 1, 1, 1, 3), mesh(1, 2, 1, 1, 1),
                                        mesh(1, 2, 1, 1, 1, 0, 2), mesh(1, 1, 2, 1, 1), mesh(1, 1, 1, 2, 1),
                                        mesh(1, 1, 1, 1, 2)});
                               })),
            "");
}

TEST(InferRanks, PairsAndAxesOfFour) {
  EXPECT_EQ(failures(run_ranks(
                4,
                [](World& world) {
                  check(world, {mesh(1, 4, 1, 1, 1), mesh(1, 1, 4, 1, 1, 3), mesh(1, 1, 1, 1, 4),
                                mesh(2, 2, 1, 1, 1), mesh(1, 2, 2, 1, 1), mesh(1, 2, 1, 1, 2, 0, 2),
                                mesh(1, 1, 2, 2, 1), mesh(2, 1, 1, 2, 1), mesh(1, 1, 2, 1, 2),
                                mesh(4, 1, 1, 1, 1, 3), mesh(2, 2, 1, 1, 1, 3), mesh(2, 1, 2, 1, 1, 3)});
                })),
            "");
}

TEST(InferRanks, Triples) {
  EXPECT_EQ(
      failures(run_ranks(8,
                         [](World& world) {
                           check(world, {mesh(2, 2, 1, 1, 2), mesh(1, 2, 2, 1, 2, 3), mesh(2, 1, 2, 2, 1)});
                         })),
      "");
}

}  // namespace
}  // namespace axial::train
