// SPDX-License-Identifier: Apache-2.0
// The parts of a layer over `tensor` against the same formula on one rank, on real ranks. The checks of
// Megatron's mpu tests with their published bounds (parallel embedding, column and row linear with L = sum of
// output * weight, vocabulary-parallel cross-entropy), each with a whole and a cut stream. The field's known
// faults, put in on purpose: faults_test.cpp.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/core/check/check.h"
#include "axial/ops/embedding/embedding.h"
#include "axial/ops/linear/linear.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/tensor/tensor_case.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace): the tests' own words
using axial::testing::failures;
using axial::testing::run_ranks;

at::Tensor rows_of(const at::Tensor& x, Interval part) { return x.narrow(0, part.begin, part.size()); }

// y = x A^T + b with outputs cut; every rank weights its own outputs. dA, db, dX.
void check_column(const Rank& r, int64_t outputs) {
  const at::Tensor a = leaf(drawn({outputs, kWidth}, 1)), b = leaf(drawn({outputs}, 2));
  const at::Tensor x = leaf(drawn({kBatch, kLength, kWidth}, 3));
  const at::Tensor weight = drawn({kBatch, kLength, outputs}, 4);
  const auto expected = torch::autograd::grad({(ops::linear(x, a, b) * weight).sum()}, {a, b, x});

  const Interval part = r.part(outputs);
  const at::Tensor own_a = leaf(rows_of(a, part)), own_b = leaf(rows_of(b, part));
  const at::Tensor own_x = leaf(r.stream.own(x, 1));
  const at::Tensor y = ops::linear(r.stream.enter(own_x), own_a, own_b);
  const at::Tensor loss = (y * weight.narrow(2, part.begin, part.size())).sum();
  const auto got = torch::autograd::grad({loss}, {own_a, own_b, own_x});
  near("column dA", got[0], rows_of(expected[0], part), 1e-6);
  near("column db", got[1], rows_of(expected[1], part), 1e-6);
  near("column dX", got[2], r.stream.own(expected[2], 1), 1e-6);
}

// y = x A^T + b + residual with inputs cut; the loss weights the stream.
void check_row(const Rank& r, int64_t ins) {
  const at::Tensor a = leaf(drawn({kWidth, ins}, 1)), b = leaf(drawn({kWidth}, 2));
  const at::Tensor x = leaf(drawn({kBatch, kLength, ins}, 3));
  const at::Tensor residual = leaf(drawn({kBatch, kLength, kWidth}, 5));
  const at::Tensor weight = drawn({kBatch, kLength, kWidth}, 4);
  const at::Tensor whole = ops::linear(x, a, b, residual);
  const auto expected = torch::autograd::grad({(whole * weight).sum()}, {a, b, x, residual});

  const Interval part = r.part(ins);
  const at::Tensor own_a = leaf(a.narrow(1, part.begin, part.size())), own_b = leaf(b);
  const at::Tensor own_x = leaf(x.narrow(2, part.begin, part.size()));
  const at::Tensor own_residual = leaf(r.stream.own(residual, 1));
  const at::Tensor y = row_linear(own_x, own_a, own_b, own_residual, r.stream);
  near("row Y", y, r.stream.own(whole, 1), 1e-12);
  const auto got =
      torch::autograd::grad({(y * r.stream.own(weight, 1)).sum()}, {own_a, own_b, own_x, own_residual});
  near("row dA", got[0], expected[0].narrow(1, part.begin, part.size()), 1e-6);
  near("row db", r.whole_gradient(got[1]), expected[1], 1e-6);
  near("row dX", got[2], expected[2].narrow(2, part.begin, part.size()), 1e-6);
  near("row dR", got[3], r.stream.own(expected[3], 1), 1e-6);
  near("row without bias", row_linear(own_x, own_a, {}, {}, r.stream), r.stream.own(ops::linear(x, a), 1),
       1e-12);
}

void check_embedding(const Rank& r, int64_t tokens, bool replicated) {
  const at::Tensor weight = leaf(drawn({tokens, kWidth}, 1));
  const at::Tensor ids = ids_below(tokens, {kBatch, kLength});
  const at::Tensor loss_weight = drawn({kBatch, kLength, kWidth}, 4);
  const at::Tensor whole = ops::embedding(weight, ids);
  const at::Tensor expected = torch::autograd::grad({(whole * loss_weight).sum()}, {weight})[0];

  const Interval rows = replicated ? Interval{0, tokens} : r.part(tokens);
  const Parameter table = table_of(weight, rows);
  const at::Tensor y = Vocabulary(table, r.stream).embed(ids);
  near("embedding", y, r.stream.own(whole, 1), 1e-12);
  at::Tensor got = torch::autograd::grad({(y * r.stream.own(loss_weight, 1)).sum()}, {table.value})[0];
  if (replicated) got = r.whole_gradient(got);
  near("embedding gradient", got, rows_of(expected, rows), 1e-12);
}

void check_cross_entropy(const Rank& r, int64_t tokens, at::ScalarType dtype, bool replicated) {
  const at::Tensor logits = leaf(drawn({kBatch, kLength, tokens}, 1).mul_(9).to(dtype));
  at::Tensor labels = ids_below(tokens, {kBatch, kLength});
  labels.select(1, 2).fill_(ops::kIgnoreLabel);
  const ops::LossSum expected = ops::cross_entropy(logits, labels);
  const at::Tensor expected_grad = torch::autograd::grad({expected.sum * 0.25}, {logits})[0];

  const Interval columns = replicated ? Interval{0, tokens} : r.part(tokens);
  const Parameter table = table_of(drawn({tokens, 1}, 1), columns);
  const Vocabulary vocabulary(table, r.stream);
  const auto own = [&](const at::Tensor& x) {
    return replicated ? r.stream.own(x, 1) : x.narrow(2, columns.begin, columns.size());
  };
  const at::Tensor mine = leaf(own(logits));
  const ops::LossSum loss = vocabulary.cross_entropy(mine, labels);
  require(loss.sum.scalar_type() == expected.sum.scalar_type(), "another dtype of the loss");
  require(loss.weight.item<double>() == expected.weight.item<double>(), "another weight of the loss");
  // fp32 statistics near 10 of 14 rows; gradients of bf16 logits round to 2^-9.
  const double bound = dtype == at::kDouble ? 1e-12 : 1e-4;
  near("cross-entropy", loss.sum.to(at::kDouble), expected.sum.to(at::kDouble), bound);
  near("cross-entropy gradient", torch::autograd::grad({loss.sum * 0.25}, {mine})[0].to(at::kDouble),
       own(expected_grad).to(at::kDouble), dtype == at::kDouble ? 1e-12 : 2e-3);
  near("likelihood", vocabulary.token_log_likelihood(mine, labels).to(at::kDouble),
       ops::token_log_likelihood(logits, labels).to(at::kDouble), bound);
  near("logits", vocabulary.whole_logits(mine).to(at::kDouble), logits.to(at::kDouble), 0.0);
}

void check_all(World& world) {
  const int64_t n = world.size();
  const auto ranks = world.make_communicator(Mesh({{"tensor", n}}, n, world.rank()));
  for (const bool cut : {false, true}) {
    const Rank r{*ranks, cut};
    for (const int64_t features : {2 * n, 2 * n + 1}) {
      check_column(r, features);
      check_row(r, features);
    }
    for (const int64_t tokens : {n, int64_t{17}}) {
      for (const bool replicated : {false, true}) {
        check_embedding(r, tokens, replicated);
        for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
          check_cross_entropy(r, tokens, dtype, replicated);
        }
      }
    }
  }
}

TEST(Tensor, TwoRanksEqualOne) { EXPECT_EQ(failures(run_ranks(2, check_all)), ""); }

TEST(Tensor, ThreeRanksEqualOne) { EXPECT_EQ(failures(run_ranks(3, check_all)), ""); }

// All in its own process: a recording transport answers for the other three ranks.
TEST(Tensor, NamesWhatIsWrongAndRunsOnMeta) {
  Communicator ranks(Mesh({{"tensor", 4}}, 4, 1), make_recording_transport(), nullptr, {});
  const StepContext context{{}, true, nullptr, &ranks};
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(message([&] {
                TensorStream({2, false}, context, {});
              }),
              HasSubstr("expected the 2 that the model was cut for by parallelize, got 4"));
  EXPECT_THAT(message([&] { TensorStream({4, true}, context, {}); }), HasSubstr("'row_positions'"));
  const TensorStream stream({4, false}, context, {});
  const Parameter table = table_of(drawn({20, 3}, 1), {5, 10});
  const Vocabulary vocabulary(table, stream);
  EXPECT_THAT(message([&] {
                vocabulary.embed(at::full({1, 2}, 20, at::kLong));
              }),
              HasSubstr("token at place 0 is out of range; expected in [0, 20), got 20"));
  EXPECT_THAT(message([&] { vocabulary.embed(at::full({1, 2}, -100, at::kLong)); }), HasSubstr("got -100"));
  EXPECT_THAT(message([&] {
                vocabulary.cross_entropy(at::zeros({1, 2, 5}), at::full({1, 2}, 20, at::kLong));
              }),
              HasSubstr("got 20"));
  EXPECT_THAT(message([&] { RankHeads::of_rank({3, 1, 4}, 4, 0); }), HasSubstr("one per rank of 4, got 3"));
  const at::Tensor logits = leaf(at::zeros({1, 2, 5}));
  const at::Tensor loss = vocabulary.cross_entropy(logits, at::zeros({1, 2}, at::kLong)).sum;
  EXPECT_THROW(torch::autograd::grad({loss}, {logits}, {}, std::nullopt, /*create_graph=*/true), c10::Error);

  const at::TensorOptions meta(at::kMeta);
  const at::Tensor ids = at::empty({2, 6}, meta.dtype(at::kLong));
  Parameter shape = table_of(drawn({20, 3}, 1), {5, 10});
  shape.value = at::empty({5, 3}, meta).set_requires_grad(true);
  const Vocabulary of_meta(shape, stream);
  const at::Tensor hidden = of_meta.embed(ids);
  const at::Tensor out = ops::linear(of_meta.enter(hidden), shape.value);
  const at::Tensor sum = of_meta.cross_entropy(out, ids).sum;
  EXPECT_EQ(torch::autograd::grad({sum}, {shape.value})[0].sizes(), at::IntArrayRef({5, 3}));
  EXPECT_EQ(of_meta.whole_logits(out).size(-1), 20);
  EXPECT_EQ(of_meta.token_log_likelihood(out, ids).sizes(), ids.sizes());
}

TEST(Tensor, OneRankAddsNothing) {
  Communicator self(Mesh::single());
  const at::Tensor x = at::ones({2, 3, 4}).set_requires_grad(true);
  for (Communicator* ranks : {static_cast<Communicator*>(nullptr), &self}) {
    const StepContext context{{}, true, nullptr, ranks};
    const TensorStream stream({1, true}, context, {});
    EXPECT_FALSE(stream.is_cut());
    for (const at::Tensor& y :
         {stream.enter(x), stream.leave(x), stream.own(x, 1), stream.gather(x, 1), stream.total(x)}) {
      EXPECT_TRUE(y.is_same(x));
    }
    Parameter table = table_of(drawn({3, 4}, 1), {0, 3});
    const at::Tensor fused = at::ones({20, 4});
    const HeadCounts counts{3, 1, 4};
    EXPECT_TRUE(projected_rows(fused, RankHeads::of_rank(counts, 1, 0), counts, stream).is_same(fused));
    EXPECT_TRUE(Vocabulary(table, stream).enter(x).is_same(x));
  }
  EXPECT_TRUE(self.traffic().empty());
}

}  // namespace
}  // namespace axial::parallel
