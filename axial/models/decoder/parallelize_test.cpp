// SPDX-License-Identifier: Apache-2.0
// The decoder's placements for many numbers of ranks: parts tile, every parameter is placed, settings that
// do not fit are named. No rank is started.
#include "axial/models/decoder/parallelize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/models/decoder/tensor_case.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/tensor/heads.h"

namespace axial::models {
namespace {

using parallel::Intervals;
using parallel::Mesh;

Model cut_model(const nlohmann::json& settings, int64_t degree, int64_t rank,
                const parallel::ParallelOptions& options = {}) {
  const ModelEntry entry = all_models().at("decoder");
  Model model = entry.build(settings);
  entry.parallelize(model, Mesh({{"data", 1}, {"tensor", degree}}, degree, rank), options);
  return model;
}

class DecoderPlacement : public ::testing::TestWithParam<testing::DecoderCase> {};

INSTANTIATE_TEST_SUITE_P(Options, DecoderPlacement, ::testing::ValuesIn(testing::tensor_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(DecoderPlacement, PartsOfAllRanksTileEveryParameter) {
  for (int64_t degree = 1; degree <= 6; ++degree) {
    std::map<std::string, at::Tensor> copies;
    for (int64_t rank = 0; rank < degree; ++rank) {
      const Model model = cut_model(GetParam().settings, degree, rank);
      for (const auto& row : model.parameters->rows()) {
        row->holding.validate(row->spec.name, row->spec.shape);
        at::Tensor& count = copies.try_emplace(row->spec.name, at::zeros(row->spec.shape)).first->second;
        at::Tensor mine = at::zeros(row->spec.shape);
        row->holding.write_into(mine, at::ones(row->holding.held_shape()));
        count.add_(mine);
        const bool sharded = !row->sharded_axes.empty();
        EXPECT_EQ(sharded, !row->holding.is_whole(row->spec.shape)) << row->spec.name;
        EXPECT_TRUE(row->partial_axes.empty()) << row->spec.name;
        for (const parallel::SharedRows& shared : row->shared_rows) {
          EXPECT_EQ(shared.copies, degree);
          EXPECT_LE(shared.end, row->holding.held_shape()[0]);
        }
      }
    }
    // Once, or on every rank: replicated ones, and key/value rows.
    for (const auto& [name, count] : copies) {
      const auto once = count.eq(1), everywhere = count.eq(degree);
      EXPECT_TRUE(once.logical_or(everywhere).all().item<bool>()) << name << " over " << degree;
    }
  }
}

TEST_P(DecoderPlacement, LayersFindTheirHeadsInTheHoldings) {
  const DecoderConfig config = read_decoder_config(GetParam().settings);
  const parallel::HeadCounts counts{config.num_heads, config.num_kv_heads, config.head_dim};
  for (int64_t degree = 1; degree <= 6; ++degree) {
    int64_t queries = 0;
    for (int64_t rank = 0; rank < degree; ++rank) {
      const Model model = cut_model(GetParam().settings, degree, rank);
      const auto heads =
          parallel::RankHeads::held_by(model.parameters->at("layers.0.attention.qkv.weight"), counts);
      EXPECT_EQ(heads.query.begin, queries);
      queries = heads.query.end;
      // Grouped attention over what is read gives each query head the key/value head that it has alone.
      ASSERT_EQ(heads.num_query() % heads.num_key_value(), 0);
      const int64_t group = heads.num_query() / heads.num_key_value();
      for (int64_t h = 0; h < heads.num_query(); ++h) {
        EXPECT_EQ(heads.reads[static_cast<size_t>(h / group)],
                  (heads.query.begin + h) / (counts.query / counts.key_value));
      }
    }
    EXPECT_EQ(queries, counts.query);
  }
}

// What a plan does: no peers, no data, and the bytes that DecoderTensor.SendsWhatTheFormulaSays saw.
TEST_P(DecoderPlacement, RunsOnMetaOverRecordedRanks) {
  const nlohmann::json& settings = GetParam().settings;
  for (const bool regions : {false, true}) {
    for (const int64_t degree : {2, 5}) {
      parallel::Communicator ranks(Mesh({{"tensor", degree}}, degree, degree - 1),
                                   parallel::make_recording_transport(), nullptr, {});
      Model model = cut_model(settings, degree, degree - 1, {.sequence_regions = regions});
      model.parameters->materialize(at::kMeta, at::kBFloat16, 1);
      parallel::NamedTensors batch =
          testing::packed_batch({5, 7, 12}, 12, settings.at("vocab_size").get<int64_t>());
      for (auto& [name, tensor] : batch) {
        if (name != "segments") tensor = tensor.to(at::kMeta);
      }
      const parallel::StepContext context{root_key(5), true, nullptr, &ranks};
      testing::run_blocks(model.blocks_with("loss"), batch, context).at("loss_sum").backward();
      for (const auto& row : model.parameters->rows()) {
        ASSERT_TRUE(row->value.grad().defined()) << row->spec.name;
        EXPECT_EQ(row->value.grad().sizes(), row->value.sizes()) << row->spec.name;
      }
      if (GetParam().name != "rotary_gated" || degree != 2) continue;
      // Streams of bf16: a gather sends 2 x 6 x 24 of them; sums of 16 bits travel in fp32.
      const auto& traffic = ranks.traffic();
      if (regions) {
        EXPECT_EQ(traffic.at({"tensor", "all_gather"}), (parallel::Traffic{8, 8 * 576, 0}));
        EXPECT_EQ(traffic.at({"tensor", "reduce_scatter"}), (parallel::Traffic{8, 8 * 1152, 0}));
      } else {
        EXPECT_EQ(traffic.at({"tensor", "all_reduce"}), (parallel::Traffic{8, 8 * 2304, 0}));
      }
    }
  }
}

TEST(DecoderParallelize, SequenceRegionsMakeStreamParametersPartial) {
  const nlohmann::json settings = testing::tensor_cases()[0].settings;
  const Model model = cut_model(settings, 2, 1, {.sequence_regions = true});
  const auto partial = [&](const char* name) { return !model.parameters->at(name).partial_axes.empty(); };
  for (const char* name : {"embed.tokens.weight", "layers.0.attention_norm.weight", "layers.1.ffn_norm.bias",
                           "layers.0.attention.out.bias", "layers.0.ffn.down.bias", "final_norm.weight",
                           "head.weight", "head.bias"}) {
    EXPECT_TRUE(partial(name)) << name;
  }
  for (const char* name : {"layers.0.attention.qkv.weight", "layers.0.attention.qkv.bias",
                           "layers.0.attention.out.weight", "layers.0.ffn.gate_up.bias"}) {
    EXPECT_FALSE(partial(name)) << name;
  }
  for (const auto& block : model.blocks_with("loss")) {
    EXPECT_THAT(block.inputs, ::testing::Contains("row_positions")) << block.name;
  }
}

TEST(DecoderParallelize, SmallVocabulariesAreReplicated) {
  const nlohmann::json settings = testing::tensor_cases()[0].settings;  // 69 tokens
  const auto rows = [&](int64_t below) {
    const Model model = cut_model(settings, 2, 1, {.replicate_vocabulary_below = below});
    return model.parameters->at("head.weight").holding.slices[0];
  };
  EXPECT_EQ(rows(1024), (Intervals{{0, 69}}));
  EXPECT_EQ(rows(70), (Intervals{{0, 69}}));
  EXPECT_EQ(rows(69), (Intervals{{35, 69}}));
  EXPECT_EQ(rows(0), (Intervals{{35, 69}}));
}

TEST(DecoderParallelize, GatedAndFusedRowsKeepTheirParts) {
  const Model model = cut_model(testing::tensor_cases()[0].settings, 3, 1);  // ffn 22: 8, 7, 7
  const auto& table = *model.parameters;
  EXPECT_EQ(table.at("layers.0.ffn.gate_up.weight").holding.slices[0], (Intervals{{8, 15}, {30, 37}}));
  EXPECT_EQ(table.at("layers.0.ffn.down.weight").holding.slices[1], (Intervals{{8, 15}}));
  // Query heads 2 and 3 of width 4, and both key/value heads.
  const parallel::Parameter& qkv = table.at("layers.0.attention.qkv.weight");
  EXPECT_EQ(qkv.holding.slices[0], (Intervals{{8, 16}, {24, 40}}));
  ASSERT_EQ(qkv.shared_rows.size(), 1u);
  EXPECT_EQ(qkv.shared_rows[0].begin, 8);
  EXPECT_EQ(qkv.shared_rows[0].end, 24);
  EXPECT_EQ(qkv.shared_rows[0].copies, 3);
}

TEST(DecoderParallelize, NamesTheSettingThatDoesNotFit) {
  const auto message = [](const nlohmann::json& changes, int64_t degree,
                          int64_t below = 1024) -> std::string {
    nlohmann::json settings = testing::tensor_cases()[0].settings;
    settings.update(changes);
    try {
      cut_model(settings, degree, 0, {.replicate_vocabulary_below = below});
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(message(nlohmann::json::object(), 8),
              HasSubstr("setting 'num_heads'; expected at least the 8 ranks along 'tensor', "
                        "got 6"));
  EXPECT_THAT(message({{"ffn_size", 3}}, 4), HasSubstr("setting 'ffn_size'"));
  EXPECT_THAT(message({{"vocab_size", 3}}, 4, 0), HasSubstr("setting 'vocab_size'"));
  EXPECT_EQ(message({{"vocab_size", 3}}, 4), "");
}

TEST(DecoderParallelize, OneRankChangesNothingAndAValueIsTooLate) {
  const ModelEntry entry = all_models().at("decoder");
  const nlohmann::json settings = testing::tensor_cases()[0].settings;
  Model model = entry.build(settings);
  entry.parallelize(model, Mesh::single(), {.sequence_regions = true});
  entry.parallelize(model, Mesh({{"data", 3}}, 3, 1), {});
  for (const auto& row : model.parameters->rows()) {
    EXPECT_TRUE(row->holding.is_whole(row->spec.shape) && row->sharded_axes.empty());
    EXPECT_TRUE(row->partial_axes.empty());
  }
  model.parameters->materialize(at::kMeta, at::kFloat, 1);
  EXPECT_THROW(entry.parallelize(model, Mesh({{"tensor", 2}}, 2, 0), {}), ValueError);
  Model other;
  EXPECT_THROW(refuse_tensor_axis(other, Mesh({{"tensor", 2}}, 2, 0), {}), UnsupportedError);
  refuse_tensor_axis(other, Mesh::single(), {});
}

}  // namespace
}  // namespace axial::models
