// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "axial/data/common/row_range.h"
#include "axial/data/packing/mixture.h"
#include "axial/data/packing/packed_source.h"
#include "axial/data/testing/files.h"
#include "axial/data/token_cache/token_cache.h"

namespace axial::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

// A store of byte tokens whose records have these lengths, BOS and EOS included.
std::shared_ptr<const TokenStore> store_of(const std::vector<int64_t>& lengths, uint64_t seed) {
  std::string text;
  for (size_t r = 0; r < lengths.size(); ++r) {
    text += fmt::format(">r{}\n", r);
    for (int64_t i = 0; i < lengths[r] - 2; ++i) {
      text += static_cast<char>('A' + random_below(RngKey{seed}.child(r), static_cast<uint64_t>(i), 26));
    }
    text += '\n';
  }
  const TempFolder folder;
  return open_token_store({folder.write("a.fa", text)}, *make_tokenizer({.kind = "byte"}), "none").store;
}

std::vector<RecordRef> all_records(const TokenStore& store, int32_t index = 0) {
  std::vector<RecordRef> out;
  for (int64_t i = 0; i < store.num_records(); ++i) out.push_back({index, i});
  return out;
}

std::vector<int64_t> some_lengths(uint64_t seed, uint64_t count, uint64_t most) {
  std::vector<int64_t> out;
  for (uint64_t i = 0; i < count; ++i) {
    out.push_back(3 + static_cast<int64_t>(random_below(RngKey{seed}, i, i % 7 ? most / 4 : most)));
  }
  return out;
}

std::vector<int64_t> values(const at::Tensor& t) {
  return {t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel()};
}

TEST(Packing, WindowsCountEveryLabelOnce) {
  for (const int64_t row : {2, 3, 7, 16}) {
    for (int64_t stride = 1; stride <= row; ++stride) {
      for (int64_t length = 0; length < 60; ++length) {
        std::vector<int> counted(static_cast<size_t>(std::max<int64_t>(0, length - 1)));
        int64_t begin = 0;
        for (const Window& w : cut_windows(5, length, row, stride)) {
          EXPECT_EQ(w.begin, begin);
          EXPECT_LE(w.length, row);
          begin += stride;
          for (int64_t t = w.begin + w.ignored; t < std::min(w.begin + w.length, length - 1); ++t) {
            ++counted[static_cast<size_t>(t)];
          }
        }
        for (const int times : counted) ASSERT_EQ(times, 1) << row << " " << stride << " " << length;
      }
    }
  }
}

TEST(Packing, RowsHoldEveryWindowOnce) {
  const std::vector<int64_t> lengths = some_lengths(1, 3000, 900);
  const PackedRows rows = pack_records(lengths, 256, 256, RngKey{1});
  std::vector<int64_t> seen(lengths.size());
  int64_t previous = -1;
  for (int64_t r = 0; r < rows.num_rows(); ++r) {
    int64_t used = 0;
    EXPECT_GT(rows.row(r)[0].record, previous - 1);  // rows are numbered by their first record
    previous = rows.row(r)[0].record;
    for (const Window& w : rows.row(r)) {
      used += w.length;
      seen[static_cast<size_t>(w.record)] += w.length;
    }
    EXPECT_LE(used, 256);
  }
  for (size_t i = 0; i < lengths.size(); ++i) EXPECT_GE(seen[i], lengths[i] - 1);
  EXPECT_GT(rows.fill(), 0.98);
  EXPECT_EQ(pack_records(lengths, 256, 256, RngKey{1}).windows, rows.windows);
  EXPECT_NE(pack_records(lengths, 256, 256, RngKey{2}).windows, rows.windows);
  EXPECT_THAT(error_of([&] { pack_records(lengths, 1, 1, RngKey{1}); }), HasSubstr("row length"));
  EXPECT_THAT(error_of([&] { pack_records(lengths, 8, 9, RngKey{1}); }), HasSubstr("stride"));
}

// Reads an epoch and checks every token's label against the store: counted once, and the right one.
void check_epoch(const PackedSource& source, const TokenStore& store, int64_t epoch, int64_t batch_rows) {
  std::map<std::string, int64_t> record_of;
  for (int64_t i = 0; i < store.num_records(); ++i) record_of[std::string(store.name(i))] = i;
  std::map<std::vector<int64_t>, int64_t> bigrams;  // (record, token, label) -> times
  for (int64_t i = 0; i < store.num_records(); ++i) {
    std::vector<int64_t> t(static_cast<size_t>(store.length(i)));
    store.copy<int64_t>(i, 0, t);
    for (size_t j = 0; j + 1 < t.size(); ++j) ++bigrams[{i, t[j], t[j + 1]}];
  }
  double weight = 0;
  const int64_t rows = source.num_rows();
  for (int64_t at = 0; at < rows; at += batch_rows) {
    const Batch batch = source.rows(epoch * rows + at, std::min(batch_rows, rows - at));
    weight += batch.weight;
    const auto labels = values(batch.tensors.at("labels"));
    const auto tokens = values(batch.tensors.at("tokens"));
    const auto positions = values(batch.tensors.at("positions"));
    const auto segments = values(batch.tensors.at("segments"));
    size_t name = 0;
    for (size_t s = 0; s + 1 < segments.size(); ++s) {
      const auto begin = static_cast<size_t>(segments[s]);
      if (tokens[begin] == SpecialIds::kPad) continue;
      const int64_t record = record_of.at(batch.record_names.at(name++));
      for (size_t p = begin; p < static_cast<size_t>(segments[s + 1]); ++p) {
        EXPECT_EQ(positions[p], static_cast<int64_t>(p - begin));
        EXPECT_TRUE(p == begin || tokens[p] != SpecialIds::kBegin);
        if (labels[p] >= 0) --bigrams[{record, tokens[p], labels[p]}];
      }
    }
    EXPECT_EQ(name, batch.record_names.size());
  }
  EXPECT_EQ(weight, static_cast<double>(store.num_tokens() - store.num_records()));
  for (const auto& [key, times] : bigrams) ASSERT_EQ(times, 0) << key[0] << " " << key[1] << " " << key[2];
}

TEST(Packing, EveryLabelOncePerEpoch) {
  const auto store = store_of(some_lengths(2, 80, 300), 3);
  for (const int64_t stride : {0, 32, 17}) {
    const PackedSource source({store}, all_records(*store), {.row_length = 64, .stride = stride, .seed = 9});
    for (const int64_t epoch : {0, 3}) check_epoch(source, *store, epoch, 5);
  }
}

TEST(Packing, PureDisjointCompleteUnique) {
  const auto store = store_of(some_lengths(4, 200, 200), 5);
  const PackedSource source({store}, all_records(*store), {.row_length = 128, .seed = 9});
  const PackedSource again({store}, all_records(*store), {.row_length = 128, .seed = 9});
  const int64_t rows = source.num_rows();
  std::vector<std::vector<int64_t>> epochs;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::multiset<std::vector<int64_t>> contents;
    std::vector<int64_t> first_tokens;
    for (int64_t r = 0; r < rows; ++r) {
      const SourceRow row = source.row(epoch * rows + r);
      EXPECT_EQ(row.row.sample_id, epoch * rows + r);
      EXPECT_EQ(again.row(epoch * rows + r).row.tokens, row.row.tokens);
      contents.insert(row.row.tokens);
      first_tokens.push_back(row.row.tokens[1]);
    }
    std::multiset<std::vector<int64_t>> expected;
    const PackedSource plain({store}, all_records(*store), {.row_length = 128, .shuffle = false, .seed = 9});
    for (int64_t r = 0; r < rows; ++r) expected.insert(plain.row(r).row.tokens);
    EXPECT_EQ(contents, expected);
    epochs.push_back(first_tokens);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  // A batch over the border of an epoch is its rows.
  const Batch batch = source.rows(rows - 2, 4);
  EXPECT_THAT(values(batch.tensors.at("sample_ids")), ElementsAre(rows - 2, rows - 1, rows, rows + 1));
  const at::Tensor late = source.rows(rows, 2).tensors.at("tokens");
  EXPECT_TRUE(at::equal(batch.tensors.at("tokens").slice(0, 2, 4), late));
  EXPECT_THAT(error_of([&] { source.rows(-1, 1); }), HasSubstr("from 0"));
}

TEST(Packing, ShardsAreBlocks) {
  std::set<int64_t> seen;
  for (int64_t shard = 0; shard < 4; ++shard) {
    const RowRange range = shard_of({40, 12}, shard, 4);
    for (int64_t i = 0; i < range.count; ++i) EXPECT_TRUE(seen.insert(range.first + i).second);
  }
  EXPECT_EQ(seen.size(), 12u);
  EXPECT_EQ(*seen.begin(), 40);
  EXPECT_EQ(*seen.rbegin(), 51);
  EXPECT_THAT(error_of([] { shard_of({0, 10}, 0, 4); }), HasSubstr("multiple of the 4"));
  EXPECT_THAT(error_of([] { shard_of({0, 8}, 4, 4); }), HasSubstr("0 to 3"));
}

TEST(Packing, SequencePartsAgreeWithTheWhole) {
  const auto store = store_of(some_lengths(6, 60, 200), 7);
  const PackedSourceOptions options{.row_length = 64, .stride = 24, .seed = 1};
  const PackedSource whole({store}, all_records(*store), options);
  const Batch all = whole.rows(3, 4);
  const auto dim = parallel::DimLayout::zigzag(64, 2);
  for (int64_t rank = 0; rank < 2; ++rank) {
    PackedSourceOptions part = options;
    part.layout = parallel::SequenceLayout(dim, rank);
    const Batch local = PackedSource({store}, all_records(*store), part).rows(3, 4);
    for (const char* name : {"tokens", "labels", "positions"}) {
      EXPECT_TRUE(at::equal(local.tensors.at(name), dim.select(all.tensors.at(name), 1, rank))) << name;
    }
    EXPECT_EQ(local.weight, all.weight);
    EXPECT_EQ(local.record_names, all.record_names);
  }
}

TEST(Packing, NothingToPredict) {
  const TempFolder folder;
  const auto store = open_token_store({folder.write("a.fa", ">a\nATG\n")},
                                      *make_tokenizer({.bos = false, .eos = false}), "none")
                         .store;
  EXPECT_THAT(error_of([&] { PackedSource({store}, all_records(*store), {}); }),
              HasSubstr("nothing to predict"));
}

TEST(Mixture, SharesWithinOneRowAtEveryPrefix) {
  const std::vector<std::vector<double>> cases{{1},
                                               {1, 1},
                                               {0.7, 0.3},
                                               {1, 2, 5},
                                               {1, 1, 1, 1, 1, 1, 1},
                                               {0.9, 0.05, 0.05},
                                               {3.14159, 2.71828, 0.001},
                                               {1000, 1, 1, 1},
                                               {12345, 777, 98},
                                               {0.25, 0.25, 0.3, 0.1, 0.05, 0.05}};
  for (const std::vector<double>& weights : cases) {
    const MixtureSchedule schedule(weights);
    double sum = 0;
    for (const double w : weights) sum += w;
    std::vector<int64_t> given(weights.size());
    for (int64_t n = 1; n <= 60000; ++n) {
      const auto place = schedule.at(n - 1);
      ASSERT_EQ(place.index, given[static_cast<size_t>(place.source)]++);
      for (size_t i = 0; i < weights.size(); ++i) {
        const double exact = static_cast<double>(n) * weights[i] / sum;
        ASSERT_LT(std::abs(static_cast<double>(given[i]) - exact), 1.0) << n << " of source " << i;
      }
    }
  }
  EXPECT_THAT(error_of([] { MixtureSchedule({1, 0}); }), HasSubstr("above 0, got 0"));
  EXPECT_THAT(error_of([] { MixtureSchedule({}); }), HasSubstr("no source"));
}

TEST(Mixture, DefaultGivesEveryRowOncePerEpoch) {
  std::vector<std::unique_ptr<RowSource>> sources;
  std::multiset<std::vector<int64_t>> expected;
  for (uint64_t s = 0; s < 3; ++s) {
    const auto store = store_of(some_lengths(s + 20, 30 * (s + 1), 150), s);
    sources.push_back(std::make_unique<PackedSource>(std::vector{store}, all_records(*store),
                                                     PackedSourceOptions{.row_length = 64, .seed = 3}));
    for (int64_t r = 0; r < sources.back()->num_rows(); ++r)
      expected.insert(sources.back()->row(r).row.tokens);
  }
  const MixtureSource mixture(std::move(sources), {});
  EXPECT_EQ(mixture.num_rows(), static_cast<int64_t>(expected.size()));
  std::multiset<std::vector<int64_t>> seen;
  for (int64_t r = 0; r < mixture.num_rows(); ++r) {
    const SourceRow row = mixture.row(mixture.num_rows() + r);
    EXPECT_EQ(row.row.sample_id, mixture.num_rows() + r);
    seen.insert(row.row.tokens);
  }
  EXPECT_EQ(seen, expected);
}

TEST(Packing, RealCodingSequencesFillRows) {
  AXIAL_GENOME_FILE(yeast, "yeast_cds_6600.fasta.zst");
  const auto store = open_token_store({yeast}, *make_tokenizer({}), "none").store;
  for (const int64_t length : {512, 1024, 2048, 8192}) {
    const PackedSource source({store}, all_records(*store), {.row_length = length});
    EXPECT_GT(source.packing().fill(), 0.95) << length;
    EXPECT_EQ(source.packing().num_labels, store->num_tokens() - store->num_records());
  }
}

}  // namespace
}  // namespace axial::data
