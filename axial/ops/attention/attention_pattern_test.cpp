// SPDX-License-Identifier: Apache-2.0
// What hides keys in axial::attention, beside biases: causal, windows, segments, intervals, block masks;
// positions.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/ops/attention/test_attention.h"
#include "axial/testing/op_case/op_case.h"

namespace axial::ops {
namespace {

using at::Tensor;
using test::plain;
using test::refusal;
using ::testing::HasSubstr;
using testing::random_normal;
using testing::Tensors;

// Of I queries and J keys; i sees j where `sees` says so.
template <class F>
Tensor hidden_where_not(int64_t queries, int64_t keys, const F& sees) {
  Tensor hidden = at::empty({queries, keys}, at::kBool);
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < keys; ++j) hidden[i][j].fill_(!sees(i, j));
  }
  return hidden;
}

void check_pattern(const std::string& name, const AttentionPattern& pattern, const Tensor& hidden) {
  const testing::OpCase test{
      .name = name,
      .inputs = {{"with a bias",
                  {random_normal({2, hidden.size(0), 2, 3}, at::kDouble, "q"),
                   random_normal({2, hidden.size(1), 1, 3}, at::kDouble, "k"),
                   random_normal({2, hidden.size(1), 1, 3}, at::kDouble, "v"),
                   random_normal({2, 1, hidden.size(1)}, at::kDouble, "bias1")}}},
      .op =
          [&](const Tensors& t) { return Tensors{attention(t[0], t[1], t[2], t[3], std::nullopt, pattern)}; },
      .reference = [&](const Tensors& t) { return Tensors{plain(t[0], t[1], t[2], t[3], {}, hidden)}; },
      .terms = 1};
  for (const std::string& failure : testing::failures(test)) ADD_FAILURE() << failure;
}

TEST(AttentionPattern, PatternsHideWhatTheySay) {
  AttentionPattern causal;
  causal.causal = true;
  check_pattern("causal", causal, hidden_where_not(4, 6, [](int64_t i, int64_t j) { return j <= i + 2; }));
  AttentionPattern window;
  window.window = 2;
  check_pattern("window", window,
                hidden_where_not(7, 7, [](int64_t i, int64_t j) { return std::abs(i - j) <= 2; }));
  AttentionPattern segments;
  segments.segments = at::tensor(std::vector<int64_t>{0, 3, 3, 7}, at::kLong);
  check_pattern("segments", segments,
                hidden_where_not(7, 7, [](int64_t i, int64_t j) { return (i < 3) == (j < 3); }));
  AttentionPattern interval;
  interval.key_begin = at::tensor(std::vector<int64_t>{0, 2, 1}, at::kLong);
  interval.key_end = at::tensor(std::vector<int64_t>{1, 4, 5}, at::kLong);
  const std::vector<int64_t> begin{0, 2, 1}, end{1, 4, 5};
  check_pattern("interval", interval, hidden_where_not(3, 5, [&](int64_t i, int64_t j) {
                  return j >= begin[static_cast<size_t>(i)] && j < end[static_cast<size_t>(i)];
                }));
  AttentionPattern blocks;
  blocks.query_block = 2;
  blocks.key_block = 3;
  blocks.mask_rows = at::tensor(std::vector<int64_t>{0, 1, 3}, at::kLong);
  blocks.mask_columns = at::tensor(std::vector<int64_t>{1, 0, 2}, at::kLong);
  check_pattern("block mask", blocks,
                hidden_where_not(4, 7, [](int64_t i, int64_t j) { return i < 2 ? j / 3 == 1 : j / 3 != 1; }));
}

TEST(AttentionPattern, CausalAndWindowGoByPositions) {
  const std::vector<int64_t> q{7, 100, 3, 12, -5}, k{-5, 0, 3, 3, 8, 12, 40};
  AttentionPattern pattern;
  pattern.q_positions = at::tensor(q, at::kLong);
  pattern.k_positions = at::tensor(k, at::kLong);
  const auto apart = [&](int64_t i, int64_t j) {
    return k[static_cast<size_t>(j)] - q[static_cast<size_t>(i)];
  };
  pattern.causal = true;
  check_pattern("causal", pattern,
                hidden_where_not(5, 7, [&](int64_t i, int64_t j) { return apart(i, j) <= 0; }));
  pattern.window = 5;
  const Tensor both =
      hidden_where_not(5, 7, [&](int64_t i, int64_t j) { return apart(i, j) <= 0 && apart(i, j) >= -5; });
  const Tensor values = random_normal({7, 1, 3}, at::kDouble, "v"),
               queries = random_normal({5, 2, 3}, at::kDouble, "q");
  const Tensor out = attention(queries, values, values, std::nullopt, std::nullopt, pattern);
  EXPECT_TRUE(at::equal(out[1], at::zeros_like(out[1])));  // nothing lies within 5 of position 100
  const Tensor expected = plain(queries, values, values, {}, {}, both);
  for (const int64_t i : {0, 2, 3, 4})
    EXPECT_LE((out[i] - expected[i]).abs().max().item<double>(), 1e-12) << i;
  pattern.causal = false;
  pattern.window = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(at::equal(attention(queries, values, values, std::nullopt, std::nullopt, pattern),
                        attention(queries, values, values, std::nullopt, std::nullopt)));
  pattern.window = 5;
  pattern.k_positions = pattern.k_positions->flip(0);
  EXPECT_THAT(refusal([&] { attention(queries, values, values, {}, {}, pattern); }),
              HasSubstr("k_positions; expected to rise, for causal and window, got 12 after 40"));
  pattern.window = 0;
  EXPECT_EQ(refusal([&] { attention(queries, values, values, {}, {}, pattern); }), "not refused");
}

// Each sequence of a batch at its own place; positions that start again in every segment.
TEST(AttentionPattern, PositionsMayDifferByRowAndStartAgainBySegment) {
  const Tensor q = random_normal({2, 4, 2, 8}, at::kDouble, "q"),
               k = random_normal({2, 9, 2, 8}, at::kDouble, "k");
  AttentionPattern pattern;
  pattern.causal = true;
  pattern.q_positions =
      at::arange(4, at::kLong) + at::tensor(std::vector<int64_t>{0, 5}, at::kLong).unsqueeze(1);
  const Tensor out = attention(q, k, k, std::nullopt, std::nullopt, pattern);
  for (const int64_t b : {0, 1}) {
    AttentionPattern one;
    one.causal = true;
    const Tensor seen = k[b].narrow(0, 0, b == 0 ? 4 : 9);
    EXPECT_LE(
        (out[b] - attention(q[b], seen, seen, std::nullopt, std::nullopt, one)).abs().max().item<double>(),
        1e-14);
  }
  AttentionPattern packed;
  packed.causal = true;
  packed.segments = at::tensor(std::vector<int64_t>{0, 3, 9}, at::kLong);
  const Tensor expected = attention(k, k, k, std::nullopt, std::nullopt, packed);
  packed.q_positions = packed.k_positions =
      at::tensor(std::vector<int64_t>{0, 1, 2, 0, 1, 2, 3, 4, 5}, at::kLong);
  EXPECT_TRUE(at::equal(attention(k, k, k, std::nullopt, std::nullopt, packed), expected));
}

TEST(AttentionPattern, ATensorOfThePatternOnAnotherDeviceIsNamed) {
  const Tensor q = at::zeros({5, 4, 8});
  const auto options = at::TensorOptions(at::kMeta).dtype(at::kLong);
  const auto refused = [&](OptionalTensor AttentionPattern::*member, const Tensor& t) {
    AttentionPattern pattern;
    pattern.mask_rows = at::tensor(std::vector<int64_t>{0, 1}, at::kLong);
    pattern.mask_columns = at::zeros({1}, at::kLong);
    pattern.*member = t;
    return refusal([&] { attention(q, q, q, {}, {}, pattern); });
  };
  const char* expected = "; expected on the host, got meta";
  EXPECT_THAT(refused(&AttentionPattern::alibi_slopes, at::zeros({4}, at::kMeta)),
              HasSubstr(std::string("alibi_slopes") + expected));
  EXPECT_THAT(refused(&AttentionPattern::mask_rows, at::empty({2}, options)),
              HasSubstr(std::string("mask_rows") + expected));
  EXPECT_THAT(refused(&AttentionPattern::mask_columns, at::empty({1}, options)),
              HasSubstr(std::string("mask_columns") + expected));
  EXPECT_THAT(refused(&AttentionPattern::segments, at::empty({2}, options)),
              HasSubstr(std::string("segments") + expected));
  EXPECT_THAT(refused(&AttentionPattern::key_end, at::empty({5}, options)),
              HasSubstr(std::string("key_end") + expected));
}

// Keys in a gap between intervals, or that the block mask leaves out, are no numbers: nothing may show it.
TEST(AttentionPattern, KeysThatNoQuerySeesMayBeAnything) {
  for (const int64_t queries : {4, 70}) {
    std::vector<int64_t> begin, end;
    for (int64_t i = 0; i < queries; ++i) {
      begin.push_back(i % 2 == 0 ? 0 : 40);
      end.push_back(i % 2 == 0 ? 20 : 100);
    }
    AttentionPattern gap, blocks;
    gap.key_begin = at::tensor(begin, at::kLong);
    gap.key_end = at::tensor(end, at::kLong);
    blocks.query_block = 128;
    blocks.key_block = 20;
    blocks.mask_rows = at::tensor(std::vector<int64_t>{0, 3}, at::kLong);
    blocks.mask_columns = at::tensor(std::vector<int64_t>{0, 2, 4}, at::kLong);
    for (const AttentionPattern& pattern : {gap, blocks}) {
      const Tensor q = random_normal({queries, 1, 8}, at::kFloat, "q").requires_grad_();
      Tensor k = random_normal({100, 1, 8}, at::kFloat, "k"), v = random_normal({100, 1, 8}, at::kFloat, "v");
      const auto run = [&] {
        const Tensor out = attention(q, k, v, std::nullopt, std::nullopt, pattern);
        const at::NoGradGuard no_grad;
        return Tensors{out, torch::autograd::grad({out}, {q}, {at::ones_like(out)})[0],
                       attention(q, k, v, std::nullopt, std::nullopt, pattern)};
      };
      const Tensors clean = run();
      k.narrow(0, 20, 20).fill_(NAN);
      v.narrow(0, 20, 20).fill_(INFINITY);
      const Tensors spoiled = run();
      for (size_t i = 0; i < clean.size(); ++i)
        EXPECT_TRUE(at::equal(clean[i], spoiled[i])) << queries << " " << i;
    }
  }
}

TEST(AttentionPattern, PositionsFarApartKeepTheirDistance) {
  for (const int64_t far : {int64_t{1} << 24, int64_t{1000000007}, int64_t{1} << 40}) {
    Tensor positions = at::arange(20, at::kLong).mul_(7).add_(far);
    positions[0].fill_(0);
    AttentionPattern pattern;
    pattern.causal = true;
    pattern.q_positions = pattern.k_positions = positions;
    pattern.alibi_slopes = at::tensor(std::vector<double>{0.5, 0.25}, at::kFloat);
    const Tensor q = random_normal({20, 2, 8}, at::kDouble, "q");
    const Tensor exact = attention(q, q, q, std::nullopt, std::nullopt, pattern);
    const Tensor single = q.to(at::kFloat);
    const Tensor out = attention(single, single, single, std::nullopt, std::nullopt, pattern);
    EXPECT_LE((out - exact).abs().max().item<double>(), 1e-5) << far;
  }
}

TEST(AttentionPattern, SizesBeyondAnyLengthMeanAll) {
  const Tensor q = random_normal({5, 2, 8}, at::kFloat, "q");
  const Tensor all = attention(q, q, q, std::nullopt, std::nullopt);
  AttentionPattern pattern;
  pattern.window = pattern.query_block = pattern.key_block = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(at::equal(attention(q, q, q, std::nullopt, std::nullopt, pattern), all));
  pattern.mask_rows = at::tensor(std::vector<int64_t>{0, 1}, at::kLong);
  pattern.mask_columns = at::zeros({1}, at::kLong);
  EXPECT_TRUE(at::equal(attention(q, q, q, std::nullopt, std::nullopt, pattern), all));
  pattern.mask_rows = at::zeros({1}, at::kLong);
  EXPECT_THAT(refusal([&] { attention(q, q, q, {}, {}, pattern); }), HasSubstr("mask_rows; expected [2]"));
}

}  // namespace
}  // namespace axial::ops
