// SPDX-License-Identifier: Apache-2.0
// Windows, packing, scores, embeddings, sampling and the .npy file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/rng/rng.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/infer/embed.h"
#include "axial/train/infer/npy.h"
#include "axial/train/infer/sample.h"
#include "axial/train/infer/score.h"
#include "axial/train/testing/tiny_model.h"

namespace axial::train {
namespace {

using ::testing::HasSubstr;

TEST(Windows, EveryTokenCountsOnceWithContext) {
  for (int64_t window = 2; window < 9; ++window) {
    for (int64_t overlap = 0; overlap < window; ++overlap) {
      for (int64_t tokens = 0; tokens < 40; ++tokens) {
        std::vector<int> counted(static_cast<size_t>(tokens), 0);
        for (const Window& w : cut_windows(tokens, window, overlap)) {
          ASSERT_LE(w.length, window);
          ASSERT_GT(w.length, w.context);
          ASSERT_TRUE(w.begin == 0 ? w.context == 0 : w.context == overlap);
          for (int64_t i = w.begin + w.context; i < w.begin + w.length; ++i)
            ++counted.at(static_cast<size_t>(i));
        }
        for (const int c : counted) ASSERT_EQ(c, 1);
      }
    }
  }
}

TEST(Windows, PackingKeepsPiecesApart) {
  const std::vector<int32_t> a{5, 6, 7, 8};
  const std::vector<int32_t> b{9, 10};
  const auto packed = pack_pieces({{a, 2}, {b, 0}},
                                  parallel::SequenceLayout::whole(static_cast<int64_t>(a.size() + b.size())));
  EXPECT_TRUE(at::equal(packed.at("tokens"), at::tensor({5, 6, 7, 8, 9, 10}, at::kLong).view({1, 6})));
  EXPECT_TRUE(
      at::equal(packed.at("labels"), at::tensor({-100, 7, 8, -100, 10, -100}, at::kLong).view({1, 6})));
  EXPECT_TRUE(at::equal(packed.at("positions"), at::tensor({0, 1, 2, 3, 0, 1}, at::kLong).view({1, 6})));
  EXPECT_TRUE(at::equal(packed.at("segments"), at::tensor({0, 4, 6}, at::kLong)));
}

// A model without any mixing over positions: score and embedding of a token do not depend on its window.
models::Model bag_model() {
  models::Model model = testing::build_tiny({{"layers", 0}});
  model.parameters->materialize(at::kCPU, at::kDouble, 5);
  return model;
}

std::vector<int32_t> some_ids(int64_t count, uint64_t salt) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(
        random_below(root_key(salt), static_cast<uint64_t>(i), static_cast<uint64_t>(testing::kVocabulary))));
  }
  return ids;
}

TEST(Score, LongRecordsBatchesAndOverlapsGiveTheDirectSum) {
  models::Model model = bag_model();
  const at::Tensor log_p = at::log_softmax(
      at::matmul(model.parameters->at("embed").value, model.parameters->at("out").value).to(at::kFloat), -1);
  for (const WindowOptions& options :
       {WindowOptions{}, WindowOptions{4, 1, 6}, WindowOptions{16, 15, 1000}}) {
    std::vector<Score> scores;
    Scorer scorer(model, options, [&](const Score& score) { scores.push_back(score); });
    const std::vector<int64_t> lengths{1, 2, 50, 3, 17, 16, 4};
    for (size_t r = 0; r < lengths.size(); ++r) scorer.add(std::to_string(r), some_ids(lengths[r], r));
    scorer.finish();
    ASSERT_EQ(scores.size(), lengths.size());
    for (size_t r = 0; r < lengths.size(); ++r) {
      EXPECT_EQ(scores[r].id, std::to_string(r));
      EXPECT_EQ(scores[r].tokens, lengths[r] - 1);
      const auto ids = some_ids(lengths[r], r);
      double expected = 0;
      for (size_t i = 1; i < ids.size(); ++i) expected += log_p[ids[i - 1]][ids[i]].item<double>();
      EXPECT_NEAR(scores[r].log_likelihood, expected, 1e-4) << r;
    }
  }
  EXPECT_THROW(Scorer(model, WindowOptions{4, 0, 6}, nullptr), ValueError);
  EXPECT_THROW(Scorer(model, WindowOptions{17, 1, 6}, nullptr), ValueError);
  EXPECT_THROW(Scorer(model, WindowOptions{4, 4, 6}, nullptr), ValueError);
}

TEST(Embed, WindowsWeighByTokensAndSpecialTokensStayOut) {
  models::Model model = bag_model();
  const at::Tensor table = model.parameters->at("embed").value.detach();
  for (const WindowOptions& options : {WindowOptions{}, WindowOptions{4, 1, 6}, WindowOptions{5, 2, 1}}) {
    std::vector<std::vector<float>> embeddings;
    Embedder embedder(model, options, {1, 2}, [&](const std::string&, std::span<const float> values) {
      embeddings.emplace_back(values.begin(), values.end());
    });
    const std::vector<std::vector<int32_t>> records{{1, 5, 6, 7, 5, 4, 3, 9, 2}, {1, 2}, some_ids(40, 3)};
    for (const auto& ids : records) embedder.add("r", ids);
    embedder.finish();
    ASSERT_EQ(embeddings.size(), records.size());
    for (size_t r = 0; r < records.size(); ++r) {
      std::vector<int64_t> kept;
      for (const int32_t id : records[r]) {
        if ((id != 1 && id != 2) || r == 1) kept.push_back(id);
      }
      const at::Tensor mean = table.index_select(0, at::tensor(kept, at::kLong)).mean(0);
      for (int64_t c = 0; c < mean.numel(); ++c) {
        EXPECT_NEAR(embeddings[r][static_cast<size_t>(c)], mean[c].item<double>(), 1e-6);
      }
    }
  }
}

TEST(Sample, FollowsTheDistributionAndTheCuts) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.4f), std::log(0.3f), std::log(0.2f)};
  const std::vector<bool> none(4, false);
  const auto counts = [&](const SamplingOptions& options, const std::vector<bool>& forbidden) {
    std::vector<double> out(4, 0);
    for (uint64_t i = 0; i < 20000; ++i) {
      out[static_cast<size_t>(sample_token(logits, forbidden, options, random_uniform(root_key(1), i)).id)] +=
          1;
    }
    for (double& c : out) c /= 20000;
    return out;
  };
  const auto near = [](const std::vector<double>& got, const std::vector<double>& expected) {
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i], expected[i], expected[i] == 0 ? 0 : 0.015) << i;
  };
  near(counts({}, none), {0.1, 0.4, 0.3, 0.2});  // 0.015 is over four standard deviations of 20000 draws
  near(counts({1.0, 2, 1.0}, none), {0, 4.0 / 7, 3.0 / 7, 0});
  near(counts({1.0, 0, 0.65}, none), {0, 4.0 / 7, 3.0 / 7, 0});
  near(counts({1.0, 0, 0.01}, none), {0, 1, 0, 0});
  near(counts({0.0, 0, 1.0}, none), {0, 1, 0, 0});
  near(counts({}, {false, true, false, false}), {1.0 / 6, 0, 0.5, 1.0 / 3});
  const double z = 0.01 + 0.16 + 0.09 + 0.04;  // temperature 1/2 squares the weights
  near(counts({0.5, 0, 1.0}, none), {0.01 / z, 0.16 / z, 0.09 / z, 0.04 / z});
  EXPECT_NEAR(sample_token(logits, none, {0.0}, 0.5).log_probability, std::log(0.4), 1e-6);
}

TEST(Sample, RefusesWhatCannotBeDrawn) {
  const std::vector<float> bad{0.0f, NAN};
  EXPECT_THROW(sample_token(bad, {false, false}, {}, 0.5), ValueError);
  EXPECT_THROW(sample_token(std::vector<float>{0.0f}, {true}, {}, 0.5), ValueError);
  EXPECT_THROW((SamplingOptions{-1.0}.validate()), ValueError);
  EXPECT_THROW((SamplingOptions{1.0, -1}.validate()), ValueError);
  EXPECT_THROW((SamplingOptions{1.0, 0, 0.0}.validate()), ValueError);
  EXPECT_THROW((SamplingOptions{1.0, 0, 1.5}.validate()), ValueError);
}

TEST(Npy, HeaderAndRowsAreWhatNumPyReads) {
  const axial::testing::TemporaryFolder folder;
  {
    NpyWriter writer(folder / "e.npy", 3);
    for (int i = 0; i < 5; ++i) writer.write_row(std::vector<float>{1.0f * i, 2.0f, 3.0f});
    EXPECT_THROW(writer.write_row(std::vector<float>{1.0f}), ValueError);
    EXPECT_FALSE(std::filesystem::exists(folder / "e.npy"));
    writer.finish();
  }
  const std::string content = read_file(folder / "e.npy");
  ASSERT_EQ(content.size(), 128u + 5 * 3 * 4);
  EXPECT_EQ(content.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(static_cast<unsigned char>(content[8]) + 256 * static_cast<unsigned char>(content[9]), 118);
  EXPECT_THAT(content, HasSubstr("'descr': '<f4', 'fortran_order': False, 'shape': (5, 3), }"));
  float value = 0;
  std::memcpy(&value, content.data() + 128 + 4 * 3 * 4, 4);
  EXPECT_EQ(value, 4.0f);
  { NpyWriter abandoned(folder / "f.npy", 3); }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  EXPECT_THROW(NpyWriter("/proc/no/e.npy", 3), IoError);
}

}  // namespace
}  // namespace axial::train
