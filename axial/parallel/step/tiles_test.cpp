// SPDX-License-Identifier: Apache-2.0
// Tiles cover every position once; over ranks a tile lies as a row of its length does; what does not fit is
// refused by name.
#include "axial/parallel/step/tiles.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/parallel/collectives/collectives.h"

namespace axial::parallel {
namespace {

Block block_of(bool cut_stream) {
  Block block{"b", {"x", "labels", "places", "ids"}, {"y"}, {}, {}};
  TokenPart& part = block.tokens.emplace();
  part.reads = {{"x", Positions::kStream},
                {"labels", Positions::kRows},
                {"places", Positions::kShared},
                {"ids", Positions::kNone}};
  part.writes = {{"y", Positions::kStream}};
  part.cut_stream = cut_stream;
  return block;
}

// What the rank has of a row whose element p is p.
NamedTensors tensors_of(int64_t length, int64_t ranks, int64_t rank) {
  const at::Tensor places = at::arange(length, at::kLong);
  const Sizes sizes = even_sizes(length, ranks);
  int64_t begin = 0;
  for (int64_t r = 0; r < rank; ++r) begin += sizes[static_cast<size_t>(r)];
  const at::Tensor own = places.narrow(0, begin, sizes[static_cast<size_t>(rank)]);
  return {{"x", own.to(at::kDouble).view({1, -1, 1}).repeat({2, 1, 3})},
          {"labels", places.expand({2, length})},
          {"places", places},
          {"ids", at::arange(2, at::kLong)}};
}

// TensorStream cuts "row_positions" of a tile by even_sizes: the pieces of the ranks must be those.
TEST(Tiles, LieOverRanksAsARowOfTheirLength) {
  for (const int64_t ranks : {1, 2, 3, 4}) {
    for (int64_t length = 0; length <= 23; ++length) {
      for (const int64_t tile_tokens : {1, 2, 3, 5, 7, 22, 100}) {
        std::vector<Tiles> tiles;
        std::vector<NamedTensors> tensors;
        const Block block = block_of(true);
        for (int64_t r = 0; r < ranks; ++r) {
          tensors.push_back(tensors_of(length, ranks, r));
          tiles.emplace_back(block, tensors.back(), tile_tokens, Mesh({{"tensor", ranks}}, ranks, r));
        }
        const int64_t expected = std::max<int64_t>(1, (length + tile_tokens - 1) / tile_tokens);
        std::vector<at::Tensor> seen;
        for (int64_t i = 0; i < expected; ++i) {
          const at::Tensor places = tiles[0].read(tensors[0], i).at("places");
          const Sizes pieces = even_sizes(places.size(0), ranks);
          std::vector<at::Tensor> streams;
          for (int64_t r = 0; r < ranks; ++r) {
            const auto at = static_cast<size_t>(r);
            ASSERT_EQ(tiles[at].size(), expected);
            const NamedTensors read = tiles[at].read(tensors[at], i);
            ASSERT_EQ(read.at("x").size(1), pieces[at])
                << length << " over " << ranks << " by " << tile_tokens;
            ASSERT_TRUE(at::equal(read.at("places"), places));
            ASSERT_TRUE(at::equal(read.at("labels"), places.expand({2, places.size(0)})));
            ASSERT_EQ(read.at("ids").size(0), 2);
            streams.push_back(read.at("x").select(2, 0)[0].to(at::kLong));
          }
          ASSERT_TRUE(at::equal(at::cat(streams), places));
          ASSERT_LE(places.size(0), tile_tokens + ranks - 1);
          seen.push_back(places);
        }
        ASSERT_TRUE(at::equal(std::get<0>(at::cat(seen).sort()), at::arange(length, at::kLong)));
      }
    }
  }
}

TEST(Tiles, PutResultsWhereTheyBelong) {
  const Block block = block_of(true);
  for (const int64_t rank : {0, 1, 2}) {
    const NamedTensors tensors = tensors_of(11, 3, rank);
    const Tiles tiles(block, tensors, 3, Mesh({{"tensor", 3}}, 3, rank));
    at::Tensor x, labels, places, ids, sum;
    for (int64_t i = 0; i < tiles.size(); ++i) {
      const NamedTensors part = tiles.read(tensors, i);
      tiles.put(x, "x", Positions::kStream, part.at("x"), i);
      tiles.put(labels, "labels", Positions::kRows, part.at("labels"), i);
      tiles.put(places, "places", Positions::kShared, part.at("places"), i);
      tiles.put(ids, "ids", Positions::kNone, part.at("ids"), i);
      tiles.put(sum, "sum", Positions::kSum, part.at("places").sum().to(at::kFloat), i);
    }
    EXPECT_TRUE(at::equal(x, tensors.at("x")));
    EXPECT_TRUE(at::equal(labels, tensors.at("labels")));
    EXPECT_TRUE(at::equal(places, tensors.at("places")));
    EXPECT_TRUE(at::equal(ids, tensors.at("ids") * tiles.size()));
    EXPECT_TRUE(at::equal(sum, at::scalar_tensor(55, at::kFloat)));
  }
}

// Gradients that some tiles lack.
TEST(Tiles, MissingPartsAreZeros) {
  const Block block = block_of(false);
  const NamedTensors tensors = tensors_of(6, 1, 0);
  const Tiles tiles(block, tensors, 2, Mesh::single());
  at::Tensor first, middle, never;
  for (int64_t i = 0; i < 3; ++i) {
    const at::Tensor part = at::ones({2, 2, 3});
    tiles.put(first, "x", Positions::kStream, i == 0 ? part : at::Tensor(), i);
    tiles.put(middle, "x", Positions::kStream, i == 1 ? part : at::Tensor(), i);
    tiles.put(never, "x", Positions::kStream, at::Tensor(), i);
  }
  EXPECT_TRUE(at::equal(first[0].select(1, 0), at::tensor({1.F, 1.F, 0.F, 0.F, 0.F, 0.F})));
  EXPECT_TRUE(at::equal(middle[1].select(1, 2), at::tensor({0.F, 0.F, 1.F, 1.F, 0.F, 0.F})));
  EXPECT_FALSE(never.defined());
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no ValueError";
}

TEST(Tiles, WhatDoesNotFitIsNamed) {
  using testing::HasSubstr;
  const Block block = block_of(false);
  const auto make = [&](const std::string& name, const at::Tensor& tensor) {
    NamedTensors tensors = tensors_of(6, 1, 0);
    tensors[name] = tensor;
    return message_of([&] { Tiles(block, tensors, 2, Mesh::single()); });
  };
  EXPECT_THAT(make("x", at::ones({2, 5, 3})),
              HasSubstr("'x' of the token part of block 'b'; expected 6 positions"));
  EXPECT_THAT(make("places", at::ones({})), HasSubstr("'places'"));
  Block none = block;
  none.tokens->reads = {{"ids", Positions::kNone}};
  EXPECT_THAT(message_of([&] { Tiles(none, tensors_of(6, 1, 0), 2, Mesh::single()); }),
              HasSubstr("got none"));
  Block cut = block_of(true);
  cut.tokens->reads = {{"x", Positions::kStream}};
  EXPECT_THAT(message_of([&] { Tiles(cut, tensors_of(6, 1, 0), 2, Mesh::single()); }),
              HasSubstr("whole rows"));

  const NamedTensors tensors = tensors_of(6, 1, 0);
  const Tiles tiles(block, tensors, 2, Mesh::single());
  at::Tensor whole;
  const auto put = [&](Positions how, const at::Tensor& part, int64_t i) {
    return message_of([&] { tiles.put(whole, "y", how, part, i); });
  };
  EXPECT_THAT(put(Positions::kStream, at::ones({2, 3, 3}), 0),
              HasSubstr("expected 2 positions in dim 1 of a tile"));
  EXPECT_THAT(put(Positions::kSum, at::ones({2}), 0), HasSubstr("expected one element, got [2]"));
  EXPECT_EQ(put(Positions::kStream, at::ones({2, 2, 3}), 0), "no ValueError");
  EXPECT_THAT(put(Positions::kStream, at::ones({2, 2, 4}), 1), HasSubstr("tiles of one shape and dtype"));
  EXPECT_THAT(put(Positions::kStream, at::ones({2, 2, 3}, at::kDouble), 1), HasSubstr("Double behind"));
}

}  // namespace
}  // namespace axial::parallel
