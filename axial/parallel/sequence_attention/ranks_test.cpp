// SPDX-License-Identifier: Apache-2.0
// sequence_attention over real processes: each rank computes the whole rows by plain ATen too, and compares
// its part. One launch per mesh runs all cases.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/parallel/sequence_attention/sequence_case.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/tolerance/tolerance.h"

namespace axial::parallel {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using testing::SequenceCase;
using testing::SequenceResults;
using testing::WholeRows;

struct Party {
  std::unique_ptr<Communicator> ranks;
  int64_t rank;  // of the layout

  Party(World& world, int64_t ring, int64_t ulysses)
      : ranks(world.make_communicator(
            Mesh({{"data", 1}, {"ring", ring}, {"ulysses", ulysses}}, world.size(), world.rank()))),
        rank(world.rank()) {}
};

// A sum of some dozen terms in another order; the largest value sets the scale.
void same(const at::Tensor& got, const at::Tensor& exact, const std::string& what) {
  require(got.sizes() == exact.sizes(), what + ": other shape");
  if (exact.numel() == 0) return;
  const double size = std::max(1.0, exact.abs().max().item<double>());
  const double error = (got - exact).abs().max().item<double>();
  require(error <= 1e-12 * size, fmt::format("{}: error {} of {}", what, error, size));
}

void check_case(const SequenceCase& c, Party& party, int64_t head_groups = 1) {
  const WholeRows w = testing::whole_rows(c);
  const SequenceLayout layout = SequenceLayout::over(party.ranks->mesh(), c.length);
  const SequenceResults whole = testing::plain_attention(w);
  const SequenceResults mine = testing::rank_attention(w, layout, party.rank, party.ranks.get(), head_groups);
  const char* names[] = {"dq", "dk", "dv", "dbias"};
  same(mine.out, layout.dim().select(whole.out, 1, party.rank), c.name + " out");
  for (size_t i = 0; i < mine.grads.size(); ++i) {
    same(mine.grads[i], layout.dim().select(whole.grads[i], i == 3 ? 2 : 1, party.rank),
         c.name + " " + names[i]);
  }
}

// Twice the same bits, in fp32.
void check_bits(const SequenceCase& c, Party& party) {
  const WholeRows w = testing::whole_rows(c, at::kFloat);
  const SequenceLayout layout = SequenceLayout::over(party.ranks->mesh(), c.length);
  const SequenceResults first = testing::rank_attention(w, layout, party.rank, party.ranks.get());
  const SequenceResults second = testing::rank_attention(w, layout, party.rank, party.ranks.get());
  require(at::equal(first.out, second.out), c.name + ": other bits");
  for (size_t i = 0; i < first.grads.size(); ++i) {
    require(at::equal(first.grads[i], second.grads[i]), c.name + ": other bits of a gradient");
  }
}

// 16-bit inputs: the error of the ranks together against twice that of one rank and one rounding.
void check_rounding(at::ScalarType dtype, Party& party) {
  const SequenceCase c{
      .name = c10::toString(dtype), .length = 96, .records = {{40, 56}}, .heads = 4, .groups = 2, .width = 8};
  const WholeRows w = testing::whole_rows(c, dtype);
  WholeRows wide = w;
  for (at::Tensor* t : {&wide.q, &wide.k, &wide.v}) *t = t->detach().to(at::kDouble).requires_grad_();
  wide.weight = w.weight.to(at::kDouble);
  const SequenceResults exact = testing::plain_attention(wide);
  const SequenceResults one = testing::rank_attention(w, SequenceLayout::whole(c.length), 0, nullptr);
  const SequenceLayout layout = SequenceLayout::over(party.ranks->mesh(), c.length);
  const SequenceResults mine = testing::rank_attention(w, layout, party.rank, party.ranks.get());
  const auto check = [&](const at::Tensor& got, const at::Tensor& alone, const at::Tensor& truth,
                         const char* what, double most) {
    const Axes axes{"ring", "ulysses"};
    const at::Tensor off = (got.to(at::kDouble) - layout.dim().select(truth, 1, party.rank)).abs();
    const at::Tensor off_alone = (alone.to(at::kDouble) - truth).abs();
    const double worst = party.ranks->all_reduce(off.max(), axes, ReduceOp::kMax).item<double>();
    const double limit = 2 * off_alone.max().item<double>() +
                         axial::testing::rounding(dtype) * truth.abs().max().item<double>();
    require(worst <= limit, fmt::format("{} {}: error {}, expected at most {}", c.name, what, worst, limit));
    // Sums of fp32 are rounded once, as those of one rank; rounded ones would add up over the ranks. dQ and
    // dK know the output after its rounding, one rank of few keys before it: 2.1 times, for any number of
    // ranks.
    const double square = party.ranks->all_reduce(off.square().sum(), axes, ReduceOp::kSum).item<double>();
    const double ratio = std::sqrt(square / off_alone.square().sum().item<double>());
    require(ratio <= most, fmt::format("{} {}: {} times the error of one rank", c.name, what, ratio));
  };
  check(mine.out, one.out, exact.out, "out", 1.1);
  check(mine.grads[0], one.grads[0], exact.grads[0], "dq", 2.5);
  check(mine.grads[1], one.grads[1], exact.grads[1], "dk", 2.5);
  check(mine.grads[2], one.grads[2], exact.grads[2], "dv", 1.1);
}

// What a real step sends: the numbers of SequenceAttention.SendsTheBytesOfTheFormula.
void check_bytes(Party& party, int64_t sent, int64_t exchanged) {
  const SequenceCase c{.name = "bytes", .length = 16, .records = {{16}}, .heads = 4, .groups = 2, .width = 4};
  party.ranks->clear_traffic();
  const SequenceLayout layout = SequenceLayout::over(party.ranks->mesh(), c.length);
  testing::rank_attention(testing::whole_rows(c, at::kFloat), layout, party.rank, party.ranks.get());
  const auto bytes = [&](const char* axis, const char* op) {
    const auto found = party.ranks->traffic().find({axis, op});
    return found == party.ranks->traffic().end() ? 0 : found->second.bytes;
  };
  require(bytes("ring", "send") == sent && bytes("ulysses", "all_to_all") == exchanged,
          fmt::format("bytes: sent {}, exchanged {}", bytes("ring", "send"), bytes("ulysses", "all_to_all")));
}

void check_mesh(World& world, int64_t ring, int64_t ulysses) {
  Party party(world, ring, ulysses);
  for (const SequenceCase& c : testing::sequence_cases()) {
    check_case(c, party);
    check_case(c, party, 2);
  }
  check_bits(testing::sequence_cases()[1], party);
  check_bits(testing::sequence_cases().back(), party);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) check_rounding(dtype, party);
}

TEST(SequenceAttentionRanks, RingOfTwo) {
  EXPECT_EQ(failures(run_ranks(2, [](World& world) { check_mesh(world, 2, 1); })), "");
}

TEST(SequenceAttentionRanks, RingOfThreeOverLinesThatMustBeConnected) {
  EXPECT_EQ(failures(run_ranks(3, [](World& world) { check_mesh(world, 3, 1); }, {.connect_sends = true})),
            "");
}

TEST(SequenceAttentionRanks, UlyssesOfTwo) {
  EXPECT_EQ(failures(run_ranks(2, [](World& world) { check_mesh(world, 1, 2); })), "");
}

TEST(SequenceAttentionRanks, ThreeEitherWay) {
  EXPECT_EQ(failures(run_ranks(3,
                               [](World& world) {
                                 check_mesh(world, 3, 1);
                                 check_mesh(world, 1, 3);
                               })),
            "");
}

TEST(SequenceAttentionRanks, FourThreeWays) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 check_mesh(world, 4, 1);
                                 check_mesh(world, 2, 2);
                                 check_mesh(world, 1, 4);
                                 Party ring(world, 4, 1), both(world, 2, 2);
                                 check_bytes(ring, 3 * 256 + 3 * 512, 0);
                                 check_bytes(both, 256 + 512, 384 + 384);
                               })),
            "");
}

TEST(SequenceAttentionRanks, RingOfThreeTimesUlyssesOfTwo) {
  EXPECT_EQ(failures(run_ranks(6,
                               [](World& world) {
                                 check_mesh(world, 3, 2);
                                 check_mesh(world, 2, 3);
                               })),
            "");
}

}  // namespace
}  // namespace axial::parallel
