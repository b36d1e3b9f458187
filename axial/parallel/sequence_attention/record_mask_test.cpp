// SPDX-License-Identifier: Apache-2.0
// Masks over places of records: every pair of places on every rank against the function itself, the ways to
// say one, what is kept between layers, and what is refused.
#include "axial/parallel/sequence_attention/record_mask.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "axial/core/check/check.h"
#include "axial/parallel/sequence_attention/pair_bits.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

using ::testing::HasSubstr;

// Neither an interval nor symmetric.
bool odd_pairs(int64_t query, int64_t key) { return (query * 7 + key * 3) % 5 != 1 || key == query; }

std::vector<PackedRow> packed_rows(int64_t length, const std::vector<std::vector<int64_t>>& starts,
                                   int64_t used) {
  std::vector<PackedRow> rows;
  for (const auto& of_row : starts) {
    rows.push_back({std::vector<int64_t>(static_cast<size_t>(rows.empty() ? length : used), 3), of_row, -1,
                    static_cast<int64_t>(rows.size())});
  }
  return rows;
}

// Whether options let the query at a place of the row see a key of the row.
bool lets_see(const SequenceAttentionOptions& o, int64_t row, int64_t local, int64_t query, int64_t key) {
  if (o.mask_rows) {
    const auto* rows = o.mask_rows->const_data_ptr<int64_t>();
    const auto* columns = o.mask_columns->const_data_ptr<int64_t>();
    const int64_t block = query / o.query_block;
    bool found = false;
    for (int64_t i = rows[block]; i < rows[block + 1]; ++i) found = found || columns[i] == key / o.key_block;
    if (!found) return false;
  }
  if (o.attended_bits) {
    EXPECT_FALSE(o.attended_bias);
    const at::Tensor& bits = *o.attended_bits;
    const at::Tensor q = at::empty({0}, at::kFloat);
    const at::Tensor pair = bias_of_bits(bits, {local, local + 1}, {key, key + 1}, q);
    return pair[bits.size(0) == 1 ? 0 : row][0][0][0].item<double>() == 0;
  }
  if (!o.attended_bias) return true;
  const at::Tensor& of_row = *o.attended_bias;
  const double bias = of_row[of_row.size(0) == 1 ? 0 : row][0][local][key].item<double>();
  EXPECT_TRUE(bias == 0 || std::isinf(bias));
  return bias == 0;
}

void check_layout(const RecordMask& mask, const SeesFunction& sees, const SequenceLayout& layout,
                  const std::vector<PackedRow>& rows) {
  const NamedTensors batch = layout.make_batch(rows, 0);
  SequenceAttentionOptions options;
  mask.add_to(options, batch, layout, at::kFloat);
  const at::Tensor places = layout.attended_positions(), positions = places - batch.at("record_starts");
  for (int64_t b = 0; b < positions.size(0); ++b) {
    for (int64_t l = 0; l < positions.size(1); ++l) {
      const int64_t place = places[l].item<int64_t>(), query = positions[b][l].item<int64_t>();
      for (int64_t key = 0; key <= query; ++key) {
        EXPECT_EQ(lets_see(options, b, l, place, place - query + key), sees(query, key))
            << "row " << b << " place " << place << " key " << key;
      }
    }
  }
}

TEST(RecordMask, EveryPairOnEveryRank) {
  constexpr int64_t kLength = 23;
  const RecordMask odd(odd_pairs);
  const SeesFunction near = sees_window_and_global(3, {0, 6});
  const RecordMask window(near), odd_in_bits(odd_pairs, 0), window_in_bits(near, kLength - 1);
  for (const auto& [ring, ulysses] : {std::pair{1, 1}, {1, 3}, {3, 1}, {2, 2}}) {
    for (int64_t r = 0; r < ring * ulysses; ++r) {
      const Mesh mesh({{"ring", ring}, {"ulysses", ulysses}}, ring * ulysses, r);
      const auto layout = SequenceLayout::over(mesh, kLength);
      for (const auto& rows :
           {packed_rows(kLength, {{0, 5, 13}, {0, 1, 19}}, 20), packed_rows(kLength, {{0}}, 23),
            packed_rows(kLength, {{0}, {0}}, 19), packed_rows(kLength, {{0}, {0, 9}}, 23)}) {
        check_layout(odd, odd_pairs, layout, rows);
        check_layout(window, near, layout, rows);
        check_layout(odd_in_bits, odd_pairs, layout, rows);
        check_layout(window_in_bits, near, layout, rows);
      }
    }
  }
}

TEST(RecordMask, UlyssesRanksOfARingRankSayTheSame) {
  const RecordMask mask(odd_pairs);
  const auto rows = packed_rows(16, {{0, 12}}, 16);  // the first ranks hold nothing of the second record
  std::vector<at::Tensor> alike;
  for (int64_t r = 0; r < 4; ++r) {
    const auto layout = SequenceLayout::over(Mesh({{"ring", 1}, {"ulysses", 4}}, 4, r), 16);
    SequenceAttentionOptions options;
    mask.add_to(options, layout.make_batch(rows, 0), layout, at::kFloat);
    EXPECT_FALSE(options.mask_rows) << r;
    EXPECT_TRUE(options.attended_bias) << r;
    EXPECT_TRUE(alike.empty() || at::equal(alike.front(), *options.attended_bias)) << r;
    alike.push_back(*options.attended_bias);
  }
}

TEST(RecordMask, OneRecordPerRowSkipsBlocks) {
  const RecordMask mask([](int64_t query, int64_t key) { return query / 64 == key / 64; });
  const auto layout = SequenceLayout::whole(256);
  SequenceAttentionOptions options;
  mask.add_to(options, layout.make_batch(packed_rows(256, {{0}}, 256), 0), layout, at::kFloat);
  EXPECT_FALSE(options.attended_bias);
  EXPECT_EQ(options.mask_columns->numel(), 4);
}

// One bit a pair, of the queries of a rank; what is written out of it at a time does not grow with the
// queries.
TEST(RecordMask, LongRowsTakeBits) {
  const auto bytes_of = [](int64_t length, int64_t host_tokens) {
    const RecordMask mask(odd_pairs, host_tokens);
    const auto layout = SequenceLayout::over(Mesh({{"ring", 2}}, 2, 1), length);
    SequenceAttentionOptions options;
    mask.add_to(options, layout.make_batch(packed_rows(length, {{0, 9}}, length), 0), layout, at::kBFloat16);
    return (options.attended_bits ? options.attended_bits : options.attended_bias)->nbytes();
  };
  EXPECT_EQ(bytes_of(256, 256), 128U * 256U * 4U);
  EXPECT_EQ(bytes_of(256, 255), 128U * 256U / 8U);
  EXPECT_EQ(queries_at_a_time(int64_t{1} << 16), 256);
  EXPECT_EQ(queries_at_a_time(int64_t{1} << 18), 64);
  EXPECT_EQ(queries_at_a_time(int64_t{1} << 24), 64);
}

TEST(RecordMask, LayersOfABatchShareOne) {
  int64_t calls = 0;
  const RecordMask mask([&](int64_t, int64_t) { return ++calls % 2 == 0; });
  const auto layout = SequenceLayout::whole(9);
  const NamedTensors batch = layout.make_batch(packed_rows(9, {{0, 4}}, 9), 0),
                     other = layout.make_batch(packed_rows(9, {{0, 3}}, 9), 0);
  SequenceAttentionOptions first, second, third;
  mask.add_to(first, batch, layout, at::kDouble);
  const int64_t once = calls;
  NamedTensors again = batch;  // as the runner hands it to the next layer
  again["record_starts"] = batch.at("record_starts").detach();
  mask.add_to(second, again, layout, at::kDouble);
  EXPECT_EQ(calls, once);
  EXPECT_TRUE(first.attended_bias->is_same(*second.attended_bias));
  EXPECT_EQ(first.attended_bias->scalar_type(), at::kDouble);
  mask.add_to(third, other, layout, at::kDouble);
  EXPECT_GT(calls, once);
  const int64_t twice = calls;
  SequenceAttentionOptions fourth;
  mask.add_to(fourth, other, layout, at::kFloat);
  EXPECT_GT(calls, twice);
  EXPECT_EQ(fourth.attended_bias->scalar_type(), at::kFloat);
}

TEST(RecordMask, WhileDecoding) {
  const RecordMask mask(odd_pairs);
  const at::Tensor q = at::tensor({4, 5, 0, 1}, at::kLong).view({2, 2}), k = at::tensor({1, 4, 7}, at::kLong);
  const at::Tensor bias = mask.cached_bias(q, k, at::kBFloat16);
  EXPECT_EQ(bias.sizes(), (std::vector<int64_t>{2, 1, 2, 3}));
  EXPECT_EQ(bias.scalar_type(), at::kFloat);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < 2; ++i) {
      for (int64_t j = 0; j < 3; ++j) {
        const int64_t query = q[b][i].item<int64_t>(), key = k[j].item<int64_t>();
        const bool seen = key > query || odd_pairs(query, key);
        EXPECT_EQ(bias[b][0][i][j].item<double>() == 0, seen) << query << " " << key;
      }
    }
  }
}

TEST(RecordMask, WrongOnesAreNamed) {
  const auto layout = SequenceLayout::whole(8);
  const NamedTensors batch = layout.make_batch(packed_rows(8, {{0, 2}}, 8), 0);
  const auto error_of = [&](const RecordMask& mask, SequenceAttentionOptions options) -> std::string {
    try {
      mask.add_to(options, batch, layout, at::kFloat);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  const at::Tensor small = at::ones({5, 5}, at::kBool);
  EXPECT_THAT(error_of(RecordMask(sees_of(small)), {}), HasSubstr("record of 6 or more places"));
  EXPECT_THAT(error_of(RecordMask(odd_pairs), {.bias = small}), HasSubstr("neither a bias"));
  SequenceAttentionOptions options;
  EXPECT_THROW(RecordMask(odd_pairs).add_to(options, {{"record_starts", small}}, layout, at::kFloat),
               ValueError);
  EXPECT_THROW(RecordMask(SeesFunction(nullptr)), ValueError);
  EXPECT_THROW(sees_window_and_global(3, {-1}), ValueError);
  EXPECT_THROW(sees_window_and_global(-1, {}), ValueError);
}

}  // namespace
}  // namespace axial::parallel
