// SPDX-License-Identifier: Apache-2.0
// Decoding with a cache that ranks share: prompts and tokens one by one, against the attention of whole
// sequences without a cache.
#include "axial/parallel/sequence_attention/cached.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/ops/attention/attention.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using testing::require;

constexpr int64_t kBatch = 3, kHeads = 4, kGroups = 2, kWidth = 5, kCapacity = 11;

// Element (b, p) of a tensor is a function of b and p alone.
at::Tensor made(int64_t heads, double phase, at::ScalarType dtype) {
  const at::Tensor i = at::arange(kBatch * kCapacity * heads * kWidth, at::kDouble);
  return (i * 0.37 + phase).sin().mul(2).view({kBatch, kCapacity, heads, kWidth}).to(dtype);
}

// Each sequence by itself, whole: token p of it attends to all up to it.
at::Tensor expected(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    const std::optional<at::Tensor>& slopes) {
  ops::AttentionPattern pattern;
  pattern.causal = true;
  pattern.alibi_slopes = slopes;
  return ops::attention(q, k, v, std::nullopt, std::nullopt, pattern);
}

// Sequences begin with different numbers of cached tokens: 0, 2, 4.
at::Tensor rows_at(const at::Tensor& x, const at::Tensor& lengths, int64_t count) {
  std::vector<at::Tensor> rows;
  for (int64_t b = 0; b < kBatch; ++b) rows.push_back(x[b].narrow(0, lengths[b].item<int64_t>(), count));
  return at::stack(rows);
}

void check(Communicator* ranks, at::ScalarType dtype, bool alibi, double tolerance) {
  const at::Tensor q = made(kHeads, 0, dtype), k = made(kGroups, 1, dtype), v = made(kGroups, 2, dtype);
  const auto slopes =
      alibi ? std::optional(at::tensor({0.5, 0.25, 0.1, 0.0}, at::kDouble).to(dtype)) : std::nullopt;
  const at::Tensor whole = expected(q, k, v, slopes);
  for (const std::vector<int64_t>& starts : {std::vector<int64_t>{0, 0, 0}, {0, 2, 4}}) {
    DecodeState state;
    state.capacity = kCapacity;
    StepContext context;
    context.ranks = ranks;
    context.decode = &state;
    state.lengths = at::zeros({kBatch}, at::kLong);
    const int64_t longest = starts.back();
    if (longest > 0) {  // fill all with the longest, then go back: entries behind a length do not count
      cached_sequence_attention(rows_at(q, state.lengths, longest), rows_at(k, state.lengths, longest),
                                rows_at(v, state.lengths, longest), "block", slopes, context);
      state.lengths = at::tensor(starts, at::kLong);
    }
    for (const int64_t count : {3, 1, 2, 1}) {
      const auto at = [&](const at::Tensor& x) { return rows_at(x, state.lengths, count); };
      const at::Tensor out = cached_sequence_attention(at(q), at(k), at(v), "block", slopes, context);
      const double off = (out - at(whole)).to(at::kDouble).abs().max().item<double>();
      require(out.scalar_type() == dtype && off <= tolerance,
              fmt::format("{} tokens are {} off", count, off));
      state.lengths = state.lengths + count;
    }
  }
}

void check_all(World& world) {
  for (const int64_t ulysses : {int64_t{1}, world.size()}) {
    const Mesh mesh({{"data", 1}, {"ring", world.size() / ulysses}, {"ulysses", ulysses}}, world.size(),
                    world.rank());
    const auto ranks = world.make_communicator(mesh);
    for (const bool alibi : {false, true}) {
      check(ranks.get(), at::kDouble, alibi, 1e-13);
      check(ranks.get(), at::kFloat, alibi, 1e-6);
      check(ranks.get(), at::kBFloat16, alibi, 0.04);
    }
  }
}

TEST(CachedSequenceAttention, OneRank) {
  for (const bool alibi : {false, true}) {
    check(nullptr, at::kDouble, alibi, 1e-13);
    check(nullptr, at::kFloat, alibi, 1e-6);
  }
}

TEST(CachedSequenceAttention, TwoRanks) {
  EXPECT_EQ(testing::failures(testing::run_ranks(2, check_all)), "");
}

// More ranks than some sequences have tokens: a rank may hold nothing.
TEST(CachedSequenceAttention, FourRanks) {
  EXPECT_EQ(testing::failures(testing::run_ranks(4, check_all)), "");
}

TEST(CachedSequenceAttention, ARankHoldsItsShareAndSendsPartialResults) {
  Communicator ranks(Mesh({{"ring", 4}}, 4, 3), make_recording_transport(), nullptr, {});
  DecodeState state;
  state.capacity = kCapacity;
  state.lengths = at::zeros({kBatch}, at::kLong);
  StepContext context;
  context.ranks = &ranks;
  context.decode = &state;
  const auto first = [](const at::Tensor& x) { return x.narrow(1, 0, 2); };
  const at::Tensor q = made(kHeads, 0, at::kFloat), k = made(kGroups, 1, at::kFloat);
  cached_sequence_attention(first(q), first(k), first(k), "block", std::nullopt, context);
  EXPECT_EQ(state.blocks.at("block").at("k").sizes(), (std::vector<int64_t>{3, 3, 2, 5}));  // ceil(11 / 4)
  // 3 sequences, 2 tokens, 4 heads, 5 + 2 numbers of fp32, to 3 ranks.
  EXPECT_EQ(ranks.traffic().at({"ring", "all_gather"}), (Traffic{1, 3 * 2 * 4 * 7 * 4 * 3, 0}));
  state.lengths = at::full({kBatch}, kCapacity - 1, at::kLong);
  EXPECT_THROW(cached_sequence_attention(first(q), first(k), first(k), "block", std::nullopt, context),
               ValueError);
}

}  // namespace
}  // namespace axial::parallel
