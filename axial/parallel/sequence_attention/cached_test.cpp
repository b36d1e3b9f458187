// SPDX-License-Identifier: Apache-2.0
// Decoding with a cache that ranks share: prompts and tokens one by one, against the attention of whole
// sequences without a cache.
#include "axial/parallel/sequence_attention/cached.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

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

// What a token sees of its sequence.
enum class Sight { kAll, kAlibi, kWindow, kMask };
constexpr Sight kSights[] = {Sight::kAll, Sight::kAlibi, Sight::kWindow, Sight::kMask};

bool sees(Sight sight, int64_t query, int64_t key) {
  if (sight == Sight::kWindow) return query - key <= 2;
  return sight != Sight::kMask || key == query || (query * 7 + key * 3) % 5 > 1;
}

CachedAttentionOptions options_of(Sight sight, const RecordMask& mask, at::ScalarType dtype) {
  CachedAttentionOptions options;
  if (sight == Sight::kAlibi) options.alibi_slopes = at::tensor({0.5, 0.25, 0.1, 0.0}, at::kDouble).to(dtype);
  if (sight == Sight::kWindow) options.window = 2;
  if (sight == Sight::kMask) options.mask = &mask;
  return options;
}

// Each sequence by itself, whole: token p of it attends to what it sees of all up to it.
at::Tensor expected(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, Sight sight,
                    const CachedAttentionOptions& options) {
  ops::AttentionPattern pattern;
  pattern.causal = true;
  pattern.alibi_slopes = options.alibi_slopes;
  at::Tensor bias = at::zeros({1, 1, kCapacity, kCapacity}, at::kDouble);
  for (int64_t query = 0; query < kCapacity; ++query) {
    for (int64_t key = 0; key <= query; ++key) {
      if (!sees(sight, query, key)) bias[0][0][query][key] = -INFINITY;
    }
  }
  return ops::attention(q, k, v, bias.to(q.scalar_type()), std::nullopt, pattern);
}

// Sequences begin with different numbers of cached tokens: 0, 2, 4.
at::Tensor rows_at(const at::Tensor& x, const at::Tensor& lengths, int64_t count) {
  std::vector<at::Tensor> rows;
  for (int64_t b = 0; b < kBatch; ++b) rows.push_back(x[b].narrow(0, lengths[b].item<int64_t>(), count));
  return at::stack(rows);
}

void check(Communicator* ranks, at::ScalarType dtype, Sight sight, double tolerance) {
  const at::Tensor q = made(kHeads, 0, dtype), k = made(kGroups, 1, dtype), v = made(kGroups, 2, dtype);
  const RecordMask mask([sight](int64_t query, int64_t key) { return sees(sight, query, key); });
  const CachedAttentionOptions options = options_of(sight, mask, dtype);
  const at::Tensor whole = expected(q, k, v, sight, options);
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
                                rows_at(v, state.lengths, longest), "block", options, context);
      state.lengths = at::tensor(starts, at::kLong);
    }
    for (const int64_t count : {3, 1, 2, 1}) {
      const auto at = [&](const at::Tensor& x) { return rows_at(x, state.lengths, count); };
      const at::Tensor out = cached_sequence_attention(at(q), at(k), at(v), "block", options, context);
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
    for (const Sight sight : kSights) {
      check(ranks.get(), at::kDouble, sight, 1e-13);
      check(ranks.get(), at::kFloat, sight, 1e-6);
      check(ranks.get(), at::kBFloat16, sight, 0.04);
    }
  }
}

TEST(CachedSequenceAttention, OneRank) {
  for (const Sight sight : kSights) {
    check(nullptr, at::kDouble, sight, 1e-13);
    check(nullptr, at::kFloat, sight, 1e-6);
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
  cached_sequence_attention(first(q), first(k), first(k), "block", {}, context);
  EXPECT_EQ(state.blocks.at("block").at("k").sizes(), (std::vector<int64_t>{3, 3, 2, 5}));  // ceil(11 / 4)
  // 3 sequences, 2 tokens, 4 heads, 5 + 2 numbers of fp32, to 3 ranks.
  EXPECT_EQ(ranks.traffic().at({"ring", "all_gather"}), (Traffic{1, 3 * 2 * 4 * 7 * 4 * 3, 0}));
  state.lengths = at::full({kBatch}, kCapacity - 1, at::kLong);
  EXPECT_THROW(cached_sequence_attention(first(q), first(k), first(k), "block", {}, context), ValueError);
}

}  // namespace
}  // namespace axial::parallel
