// SPDX-License-Identifier: Apache-2.0
// The field's known faults of tensor parallelism, put in on purpose: each gives values that the other tests'
// bounds would not let pass, or is refused. docs/parallelism.md lists them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "axial/core/check/check.h"
#include "axial/ops/cross_entropy/cross_entropy.h"
#include "axial/ops/embedding/embedding.h"
#include "axial/ops/linear/linear.h"
#include "axial/parallel/tensor/tensor_case.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace): the tests' own words
using axial::testing::failures;
using axial::testing::run_ranks;

constexpr int64_t kTokens = 20;

// `body` on two ranks, with a whole and a cut stream.
std::string on_two_ranks(const std::function<void(const Rank&)>& body) {
  return failures(run_ranks(2, [&](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"tensor", 2}}, 2, world.rank()));
    for (const bool cut : {false, true}) body({*ranks, cut});
  }));
}

bool refuses(const std::function<void()>& call) {
  try {
    call();
  } catch (const ValueError&) {
    return true;
  }
  return false;
}

// Megatron-DeepSpeed #389: ids cut per rank before a lookup whose ranks are summed adds up the rows of
// different tokens. A whole stream gives other values; a cut one refuses the lengths.
TEST(TensorFaults, TokensCutBeforeASummedLookup) {
  EXPECT_EQ(
      on_two_ranks([](const Rank& r) {
        const int64_t length = 2 * r.size;
        const at::Tensor weight = drawn({kTokens, kWidth}, 1), ids = ids_below(kTokens, {kBatch, length});
        const Parameter table = table_of(weight, r.part(kTokens));
        const at::Tensor sliced = ids.narrow(1, 2 * r.rank, 2);
        if (r.cut) {
          require(refuses([&] { Vocabulary(table, r.stream).embed(sliced); }),
                  "sliced ids enter a cut stream");
          return;
        }
        const at::Tensor wrong = Vocabulary(table, r.stream).embed(sliced);
        require(error_of(wrong.detach(), ops::embedding(weight, sliced)) > 1e-2,
                "sliced ids before a summed lookup are not noticed");
      }),
      "");
}

// Megatron-LM #7452: logits that were gathered, in a loss that sums exponents over ranks, give a loss that is
// larger by log(ranks) per token, with gradients that look right.
TEST(TensorFaults, GatheredLogitsInASummedLoss) {
  EXPECT_EQ(on_two_ranks([](const Rank& r) {
              const at::Tensor logits = drawn({kBatch, kLength, kTokens}, 1);
              const at::Tensor labels = ids_below(kTokens, {kBatch, kLength});
              const Parameter table = table_of(drawn({kTokens, 1}, 1), r.part(kTokens));
              require(refuses([&] { Vocabulary(table, r.stream).cross_entropy(logits, labels); }),
                      "gathered logits enter a loss over cut ones");
              // What they would give: every rank's exponents are all of them.
              const at::Tensor whole_sums = logits.exp().sum(-1);
              const at::Tensor sums = r.ranks.all_reduce(whole_sums, {kTensorAxis}, ReduceOp::kSum);
              const double off = (sums.log() - whole_sums.log()).mean().item<double>();
              require(std::abs(off - std::log(2.0)) < 1e-9, fmt::format("off by {}", off));
            }),
            "");
}

// Megatron-LM #1754: a vocabulary that the ranks do not divide, filled up with rows whose logits are 0: their
// exponents count.
TEST(TensorFaults, AVocabularyFilledUpToTheRanks) {
  EXPECT_EQ(on_two_ranks([](const Rank& r) {
              const int64_t tokens = 17, each = 9;
              const at::Tensor logits = drawn({kBatch, kLength, tokens}, 1);
              const at::Tensor labels = ids_below(tokens, {kBatch, kLength});
              const auto truth = ops::cross_entropy(logits, labels).sum.item<double>();
              const at::Tensor filled = at::constant_pad_nd(logits, {0, 2 * each - tokens}, 0);
              const auto loss_of = [&](const at::Tensor& cut, Interval columns, int64_t size) {
                const Parameter table = table_of(drawn({size, 1}, 1), columns);
                return Vocabulary(table, r.stream)
                    .cross_entropy(cut.narrow(2, columns.begin, columns.size()), labels)
                    .sum.item<double>();
              };
              const double wrong = loss_of(filled, {r.rank * each, (r.rank + 1) * each}, 2 * each);
              require(wrong - truth > 0.1, fmt::format("filled up: {} in place of {}", wrong, truth));
              const double ours = loss_of(logits, r.part(tokens), tokens);
              require(std::abs(ours - truth) < 1e-9, fmt::format("uneven: {} in place of {}", ours, truth));
            }),
            "");
}

// Megatron-LM #737: a term of the loss made of a rank's own columns alone (label smoothing by the mean of the
// log-probabilities; there is none here) differs between ranks and from the truth; what ours adds up does
// not.
TEST(TensorFaults, ATermOfOwnColumnsAlone) {
  EXPECT_EQ(on_two_ranks([](const Rank& r) {
              const at::Tensor logits = drawn({kBatch, kLength, kTokens}, 1).mul_(3);
              const at::Tensor labels = ids_below(kTokens, {kBatch, kLength});
              const Interval part = r.part(kTokens);
              const at::Tensor own = logits.narrow(2, part.begin, part.size());
              const at::Tensor smoothed = logits.log_softmax(-1).narrow(2, part.begin, part.size()).mean();
              const auto spread = [&](const at::Tensor& value) {
                const at::Tensor most = r.ranks.all_reduce(value, {kTensorAxis}, ReduceOp::kMax);
                const at::Tensor least = -r.ranks.all_reduce(-value, {kTensorAxis}, ReduceOp::kMax);
                return (most - least).item<double>();
              };
              require(spread(smoothed) > 1e-2, "means of own columns look alike");
              const Parameter table = table_of(drawn({kTokens, 1}, 1), part);
              const at::Tensor loss = Vocabulary(table, r.stream).cross_entropy(own, labels).sum;
              require(spread(loss) == 0, "ranks have other losses");
            }),
            "");
}

// A bias in every rank's product is added once per rank.
TEST(TensorFaults, ABiasOnEveryRank) {
  EXPECT_EQ(on_two_ranks([](const Rank& r) {
              const int64_t ins = 4;
              const at::Tensor a = drawn({kWidth, ins}, 1), b = drawn({kWidth}, 2);
              const at::Tensor x = drawn({kBatch, kLength, ins}, 3);
              const Interval part = r.part(ins);
              const at::Tensor own_a = a.narrow(1, part.begin, part.size());
              const at::Tensor own_x = x.narrow(2, part.begin, part.size());
              const at::Tensor faulty = r.stream.leave(ops::linear(own_x, own_a, b));
              require(error_of(faulty, r.stream.own(ops::linear(x, a, b), 1)) > 1e-2,
                      "a bias that every rank adds is not noticed");
            }),
            "");
}

}  // namespace
}  // namespace axial::parallel
