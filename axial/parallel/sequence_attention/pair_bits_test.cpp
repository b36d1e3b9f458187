// SPDX-License-Identifier: Apache-2.0
// Attention whose hidden pairs are bits, some queries at a time: outputs and gradients are those of a plain
// softmax, on one rank and on ranks that share rows.
#include "axial/parallel/sequence_attention/pair_bits.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/sequence_attention/sequence_case.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using testing::SequenceCase;
using testing::SequenceResults;
using testing::WholeRows;

bool hides(int64_t query, int64_t key) { return (query * 7 + key * 3) % 5 == 1 && key != query; }

at::Tensor bits_of(const SequenceLayout& layout) {
  const at::Tensor places = layout.attended_positions();
  const at::Tensor bits = make_pair_bits(1, places.numel(), layout.length(), at::kCPU);
  for (int64_t l = 0; l < places.numel(); ++l) {
    const int64_t query = places[l].item<int64_t>();
    for (int64_t key = 0; key <= query; ++key) {
      if (hides(query, key)) hide_key(bits.mutable_data_ptr<uint8_t>() + l * bits.size(2), key);
    }
  }
  return bits;
}

WholeRows rows_with_mask(const SequenceCase& c) {
  WholeRows w = testing::whole_rows(c);
  at::Tensor seen = at::ones({c.length, c.length}, at::kBool);
  for (int64_t q = 0; q < c.length; ++q) {
    for (int64_t k = 0; k <= q; ++k) seen.mutable_data_ptr<bool>()[q * c.length + k] = !hides(q, k);
  }
  w.sees = w.sees.logical_and(seen);
  return w;
}

void check(const SequenceLayout& layout, int64_t rank, Communicator* ranks) {
  const SequenceCase c{.name = "bits",
                       .length = 150,
                       .records = {{150}, {100, 40}},
                       .heads = 4,
                       .groups = 2,
                       .width = 3,
                       .alibi = true};
  WholeRows w = rows_with_mask(c);
  const SequenceResults whole = testing::plain_attention(w);
  w.options.attended_bits = bits_of(layout);
  w.options.attended_queries = 64;
  const SequenceResults mine = testing::rank_attention(w, layout, rank, ranks);
  const auto same = [&](const at::Tensor& got, const at::Tensor& all, const char* what) {
    const double off = (got - layout.dim().select(all, 1, rank)).abs().max().item<double>();
    require(off <= 1e-12 * std::max(1.0, all.abs().max().item<double>()),
            fmt::format("{}: off by {}", what, off));
  };
  same(mine.out, whole.out, "out");
  const char* names[] = {"dq", "dk", "dv"};
  for (size_t i = 0; i < 3; ++i) same(mine.grads[i], whole.grads[i], names[i]);
}

TEST(PairBits, OneRankInParts) { check(SequenceLayout::whole(150), 0, nullptr); }

TEST(PairBits, RanksInParts) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 for (const auto& [ring, ulysses] : {std::pair{4, 1}, {2, 2}, {1, 4}}) {
                                   const auto ranks = world.make_communicator(Mesh(
                                       {{"data", 1}, {"ring", ring}, {"ulysses", ulysses}}, 4, world.rank()));
                                   check(SequenceLayout::over(ranks->mesh(), 150), world.rank(), ranks.get());
                                 }
                               })),
            "");
}

// Of 1024 places, whose bias takes 4 MiB: bits take 128 KiB, and what is written out of them for 64 queries
// at a time 256 KiB.
TEST(PairBits, NoBiasOfAllPairsIsEverThere) {
  const SequenceCase c{
      .name = "long", .length = 1024, .records = {{1024}}, .heads = 2, .groups = 2, .width = 4};
  const auto layout = SequenceLayout::whole(c.length);
  const auto peak_with = [&](bool in_bits) {
    WholeRows w = testing::whole_rows(c, at::kFloat);
    const at::Tensor bits = bits_of(layout);
    const ops::MemoryCount memory;
    if (in_bits) {
      w.options.attended_bits = bits.clone();
      w.options.attended_queries = 64;
    } else {
      w.options.attended_bias = bias_of_bits(bits, {0, c.length}, {0, c.length}, at::empty({0}, at::kFloat));
    }
    testing::rank_attention(w, layout, 0, nullptr);
    return memory.peak();
  };
  EXPECT_LT(peak_with(true), peak_with(false) - (4 << 20) + 2 * (128 << 10) + 2 * (256 << 10));
}

// What is written out: these pairs alone.
TEST(PairBits, AreWrittenWhereAsked) {
  const at::Tensor bits = bits_of(SequenceLayout::whole(150));
  EXPECT_EQ(bits.nbytes(), 150U * 19U);
  const at::Tensor bias = bias_of_bits(bits, {64, 128}, {3, 70}, at::empty({0}, at::kBFloat16));
  ASSERT_EQ(bias.sizes(), (std::vector<int64_t>{1, 1, 64, 67}));
  ASSERT_EQ(bias.scalar_type(), at::kFloat);
  for (int64_t q = 64; q < 128; ++q) {
    for (int64_t k = 3; k < 70; ++k) {
      const bool hidden = k <= q && hides(q, k);
      EXPECT_EQ(std::isinf(bias[0][0][q - 64][k - 3].item<float>()), hidden) << q << " " << k;
    }
  }
}

}  // namespace
}  // namespace axial::parallel
