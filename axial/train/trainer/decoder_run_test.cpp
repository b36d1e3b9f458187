// SPDX-License-Identifier: Apache-2.0
// The real decoder through trainer, score and generate: packed records, dropout, every kind of position.
#include <gtest/gtest.h>

#include <csignal>
#include <span>

#include "axial/core/file/file.h"
#include "axial/core/rng/rng.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/infer/generate.h"
#include "axial/train/infer/score.h"
#include "axial/train/trainer/trainer.h"

namespace axial::train {
namespace {

constexpr int64_t kTokens = 13;

nlohmann::json decoder_config(const std::string& position) {
  return {{"vocab_size", kTokens}, {"hidden_size", 16},       {"num_layers", 2},
          {"num_heads", 2},        {"max_positions", 24},     {"position", position},
          {"ffn_size", 32},        {"residual_dropout", 0.1}, {"embedding_dropout", 0.1}};
}

models::Model make_decoder(const std::string& position) {
  return models::all_models().at("decoder").build(decoder_config(position));
}

// Rows of 24 positions: a record of 7 + row % 5 tokens, one of 9, padding (a segment of its own).
class PackedSource : public data::BatchSource {
 public:
  int64_t num_rows() const override { return 11; }
  int64_t num_tokens() const override { return 11 * 18; }
  data::Batch rows(int64_t first, int64_t count) const override {
    const auto options = at::TensorOptions(at::kLong);
    data::Batch batch;
    at::Tensor tokens = at::full({count, kLength}, 3, options);
    at::Tensor labels = at::full({count, kLength}, -100, options);
    at::Tensor positions = at::zeros({count, kLength}, options);
    std::vector<int64_t> borders{0};
    for (int64_t b = 0; b < count; ++b) {
      const int64_t row = (first + b) % num_rows();
      int64_t at = b * kLength;
      for (const int64_t length : {7 + row % 5, int64_t{9}}) {
        for (int64_t i = 0; i < length; ++i, ++at) {
          tokens.mutable_data_ptr<int64_t>()[at] = token(row, i);
          positions.mutable_data_ptr<int64_t>()[at] = i;
          if (i + 1 < length) labels.mutable_data_ptr<int64_t>()[at] = token(row, i + 1);
        }
        batch.weight += static_cast<double>(length - 1);
        batch.num_tokens += length;
        borders.push_back(at);
      }
      for (int64_t i = 0; at < (b + 1) * kLength; ++i, ++at) positions.mutable_data_ptr<int64_t>()[at] = i;
      borders.push_back(at);
      batch.record_names.push_back("row " + std::to_string(row));
    }
    batch.tensors = {{"tokens", tokens},
                     {"labels", labels},
                     {"positions", positions},
                     {"segments", at::tensor(borders, options)},
                     {"sample_ids", at::arange(first, first + count, options)},
                     {"row_positions", at::arange(kLength, options)},
                     {"record_starts", at::arange(kLength, options).unsqueeze(0) - positions}};
    return batch;
  }

 private:
  static constexpr int64_t kLength = 24;
  static int64_t token(int64_t row, int64_t i) { return 5 + (row * 3 + i * (1 + row % 3)) % 8; }
};

class DecoderRun : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Positions, DecoderRun, ::testing::Values("rotary", "alibi", "learned"),
                         [](const auto& info) { return info.param; });

TrainOptions decoder_options(Precision precision) {
  TrainOptions options;
  options.steps = 8;
  options.batch = 5;
  options.micro_batch = 2;
  options.precision = precision;
  options.threads = 1;
  options.checkpoint_every = 3;
  options.validate_every = 0;
  options.optimizer.learning_rate = 3e-3;
  return options;
}

std::vector<double> losses_of(const std::filesystem::path& folder, const std::string& position,
                              const TrainOptions& options, int64_t stop_at) {
  const PackedSource source;
  const RunFolder run_folder(folder);
  std::vector<double> losses;
  TrainerInputs inputs;
  inputs.model = make_decoder(position);
  inputs.training = &source;
  inputs.validation = &source;
  inputs.show_progress = false;
  static const models::ModelRegistry registry = models::all_models();
  inputs.registry = &registry;
  inputs.on_step = [&](int64_t step, const StepOutcome& outcome) {
    losses.push_back(outcome.loss);
    if (step == stop_at) std::raise(SIGINT);
  };
  Trainer trainer(std::move(inputs), options, run_folder);
  trainer.resume();
  trainer.run();
  return losses;
}

TEST_P(DecoderRun, ResumesAndRecomputesBitForBit) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const axial::testing::TemporaryFolder folder;
    TrainOptions options = decoder_options(precision);
    const auto whole = losses_of(folder / "whole", GetParam(), options, -1);
    ASSERT_EQ(whole.size(), 8u);
    auto parts = losses_of(folder / "parts", GetParam(), options, 4);
    ASSERT_EQ(parts.size(), 4u);
    const auto rest = losses_of(folder / "parts", GetParam(), options, -1);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_EQ(whole, parts);
    options.recompute_group = 1;
    EXPECT_EQ(whole, losses_of(folder / "recompute", GetParam(), options, -1));
  }
}

// A checkpoint without a setting that did not exist when it was written.
TEST(DecoderRunOfBefore, SettingsThatAreMissingHaveTheirDefaults) {
  const axial::testing::TemporaryFolder folder;
  TrainOptions options = decoder_options(Precision::kFp32);
  options.steps = 3;
  losses_of(folder.path(), "rotary", options, -1);
  const std::filesystem::path file = folder / "checkpoints/step_00000003/index.json";
  nlohmann::json index = nlohmann::json::parse(read_file(file));
  ASSERT_EQ(index["state"]["model"]["config"].erase("attention_mask"), 1U) << index.dump(1);
  index.erase("hash");
  const std::string hashed = index.dump();
  index["hash"] = hash_bytes(std::as_bytes(std::span(hashed)));
  write_file_atomically(file, index.dump());
  options.steps = 5;
  EXPECT_EQ(losses_of(folder.path(), "rotary", options, -1).size(), 2U);
}

TEST_P(DecoderRun, WholeStepRunsOnMeta) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    for (const int64_t group : {0, 1}) {
      TrainOptions options = decoder_options(precision);
      options.recompute_group = group;
      models::Model model = make_decoder(GetParam());
      TrainingStep step(model, options, at::kMeta);
      const PackedSource source;
      const StepOutcome outcome = step.run({source.rows(0, 2), source.rows(2, 2), source.rows(4, 1)}, 0);
      EXPECT_EQ(outcome.kind, StepOutcome::Kind::kApplied);
      EXPECT_EQ(outcome.loss, 1.0);
    }
  }
}

TEST_P(DecoderRun, ScoreOfPackedRecordsIsTheScoreAlone) {
  models::Model model = make_decoder(GetParam());
  model.parameters->materialize(at::kCPU, at::kDouble, 4);
  std::vector<std::vector<int32_t>> records;
  for (uint64_t r = 0; r < 6; ++r) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 5 + 4 * r; ++i) {
      ids.push_back(static_cast<int32_t>(random_below(root_key(r), i, static_cast<uint64_t>(kTokens))));
    }
    records.push_back(ids);
  }
  const auto scores = [&](int64_t batch_tokens) {
    std::vector<double> out;
    WindowOptions options;
    options.window = 24;
    options.overlap = 20;
    options.batch_tokens = batch_tokens;
    Scorer scorer(model, options, [&](const Score& score) { out.push_back(score.log_likelihood); });
    for (const auto& ids : records) scorer.add("r", ids);
    scorer.finish();
    return out;
  };
  const auto alone = scores(1);
  const auto packed = scores(1000);
  ASSERT_EQ(alone.size(), records.size());
  for (size_t r = 0; r < alone.size(); ++r) EXPECT_NEAR(alone[r], packed[r], 1e-9) << r;
}

TEST_P(DecoderRun, GenerationEqualsItsScore) {
  models::Model model = make_decoder(GetParam());
  model.parameters->materialize(at::kCPU, at::kDouble, 4);
  GenerateOptions options;
  options.count = 5;
  options.batch = 3;
  options.max_tokens = 15;
  options.sampling.temperature = 1.3;
  std::vector<Generated> sequences;
  const GenerateIds ids{{1}, {0, 1, 2, 3, 4}, {}, {7}};
  generate(model, ids, options, [&](const Generated& sequence) { sequences.push_back(sequence); });
  std::vector<double> scores;
  Scorer scorer(model, WindowOptions{}, [&](const Score& score) { scores.push_back(score.log_likelihood); });
  for (const Generated& sequence : sequences) {
    std::vector<int32_t> all = ids.prompt;
    all.insert(all.end(), sequence.ids.begin(), sequence.ids.end());
    scorer.add("g", all);
  }
  scorer.finish();
  ASSERT_EQ(scores.size(), 5u);
  // Logits pass through fp32 before the draw: 15 tokens of rounding below 1e-6 each.
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(scores[i], sequences[i].log_likelihood, 2e-5) << i;
}

}  // namespace
}  // namespace axial::train
