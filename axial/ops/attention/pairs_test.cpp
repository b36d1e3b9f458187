// SPDX-License-Identifier: Apache-2.0
// Pairs against a loop over them, and operations of attention calls by literal numbers.
#include "axial/ops/attention/pairs.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/ops/attention/attention.h"
#include "axial/ops/attention/partial.h"
#include "axial/ops/common/flop_count.h"

namespace axial::ops {
namespace {

TEST(Pairs, BetweenAreThoseOfALoop) {
  for (int64_t queries = 0; queries < 6; ++queries) {
    for (int64_t keys = 0; keys < 6; ++keys) {
      for (int64_t low = -8; low < 8; ++low) {
        for (int64_t high = -8; high < 8; ++high) {
          int64_t pairs = 0;
          for (int64_t i = 0; i < queries; ++i) {
            for (int64_t j = 0; j < keys; ++j) pairs += low <= j - i && j - i <= high ? 1 : 0;
          }
          ASSERT_EQ(pairs_between(queries, keys, low, high), static_cast<double>(pairs))
              << queries << " " << keys << " " << low << " " << high;
        }
      }
    }
  }
  EXPECT_EQ(pairs_between(int64_t{1} << 21, int64_t{1} << 21, INT64_MIN, INT64_MAX), 0x1p42);
}

// 7 tokens of 4 heads of 8, two of them key/value heads: 4 products of pairs with the gradients of q, k and
// v, 5 with the logits that are made again, 2 forward; a product is 2 * 8 operations a pair and head.
struct Call {
  AttentionPattern pattern;
  double seen, square;
};

void check(const Call& call, at::DeviceType device) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  const at::Tensor q = at::zeros({7, 4, 8}, options).requires_grad_(),
                   k = at::zeros({7, 2, 8}, options).requires_grad_();
  const auto flops = [&](double products) {
    return Flops{0, products * 2 * 8 * 4 * call.seen, products * 2 * 8 * 4 * call.square};
  };
  const FlopCount count;
  const at::Tensor out = attention(q, k, k, std::nullopt, std::nullopt, call.pattern);
  EXPECT_EQ(count.all(), flops(2));
  EXPECT_EQ(count.recomputed(), Flops{});
  torch::autograd::grad({out}, {q, k}, {at::ones_like(out)});
  EXPECT_EQ(count.all(), flops(7));
  EXPECT_EQ(count.recomputed(), flops(1));
}

TEST(Pairs, CallsOnHostAndMeta) {
  for (const at::DeviceType device : {at::kCPU, at::kMeta}) {
    SCOPED_TRACE(device == at::kMeta);
    check({{}, 49, 49}, device);
    AttentionPattern causal;
    causal.causal = true;
    check({causal, 28, 49}, device);
    causal.window = 2;
    check({causal, 1 + 2 + 5 * 3, 49}, device);
    AttentionPattern window;
    window.window = 1;
    check({window, 7 + 2 * 6, 49}, device);
    AttentionPattern packed;
    packed.causal = true;
    packed.segments = at::tensor({0, 4, 7}, at::kLong).to(device);  // as even as Meta takes them to be
    check({packed, 10 + 6, 16 + 9}, device);
  }
}

// Where intervals hold numbers, they are counted; where not, what is known is.
TEST(Pairs, OfIntervals) {
  AttentionPattern pattern;
  pattern.key_begin = at::tensor({0, 0, 1, 9, 0, 0, 0}, at::kLong);
  pattern.key_end = at::tensor({1, 2, 3, 4, 9, 0, 1}, at::kLong);
  check({pattern, 1 + 2 + 2 + 0 + 7 + 0 + 1, 49}, at::kCPU);
  {
    const KnownPairsScope scope(KnownPairs{3, 70});
    check({pattern, 13, 70}, at::kCPU);
  }
  pattern.key_begin = pattern.key_begin->to(at::kMeta);
  pattern.key_end = pattern.key_end->to(at::kMeta);
  check({pattern, 49, 49}, at::kMeta);
  const KnownPairsScope scope(KnownPairs{3, 70});
  check({pattern, 3, 70}, at::kMeta);
}

// A backward outside of the scope remembers what its forward was told, and not what others are.
TEST(Pairs, AreRememberedForBackward) {
  const at::Tensor q = at::zeros({7, 4, 8}, at::TensorOptions(at::kFloat).device(at::kMeta)).requires_grad_();
  AttentionPattern pattern;
  pattern.key_end = at::zeros({7}, at::TensorOptions(at::kLong).device(at::kMeta));
  at::Tensor out;
  {
    const KnownPairsScope scope(KnownPairs{3, 70});
    out = attention(q, q, q, std::nullopt, std::nullopt, pattern);
  }
  const at::Tensor other = attention(q, q, q, std::nullopt, std::nullopt, pattern);
  const FlopCount count;
  const KnownPairsScope scope(KnownPairs{1, 1});
  torch::autograd::grad({out}, {q}, {at::ones_like(out)});
  EXPECT_EQ(count.all(), (Flops{0, 5 * 2 * 8 * 4 * 3, 5 * 2 * 8 * 4 * 70}));
  torch::autograd::grad({other}, {q}, {at::ones_like(out)});
  EXPECT_EQ(count.all(), (Flops{0, 5 * 2 * 8 * 4 * (3 + 49), 5 * 2 * 8 * 4 * (70 + 49)}));
}

// Gradients that nobody wants cost nothing: dV alone takes the logits and one product.
TEST(Pairs, ProductsOfWhatIsWanted) {
  const at::Tensor q = at::zeros({3, 7, 4, 8}), grad = at::zeros_like(q);
  const FlopCount count;
  const AttentionPartial piece = attention_partial(q, q, q, std::nullopt, std::nullopt, {}, 1);
  const double one = 2.0 * 8 * 4 * 3 * 49;
  EXPECT_EQ(count.all().attention, 2 * one);
  const auto backward = [&](std::array<bool, 5> wanted) {
    const double before = count.all().attention;
    attention_partial_backward(grad, piece, q, q, q, std::nullopt, std::nullopt, {}, 1, wanted);
    return (count.all().attention - before) / one;
  };
  EXPECT_EQ(backward({true, true, true, false, false}), 5);
  EXPECT_EQ(backward({false, false, true, false, false}), 2);
  EXPECT_EQ(backward({true, false, false, false, false}), 3);
}

}  // namespace
}  // namespace axial::ops
