// SPDX-License-Identifier: Apache-2.0
// Gradients through every differentiable collective equal those of the same function written on one rank.
#include "axial/parallel/collectives/collectives.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/parallel/collectives/point_to_point.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using testing::require;

// Every rank knows all ranks' inputs and weights, so each can compute the whole on its own.
at::Tensor drawn(int64_t rank, at::IntArrayRef shape, int64_t salt) {
  const int64_t n = c10::multiply_integers(shape);
  return at::sin(at::arange(n, at::kDouble) * 1.3 + static_cast<double>(rank * 17 + salt)).reshape(shape);
}

void same(const at::Tensor& got, const at::Tensor& expected, const std::string& what) {
  require(got.sizes() == expected.sizes() && at::allclose(got, expected, 1e-12, 1e-12),
          what + ": other values than on one rank");
}

// y of each rank from x of each rank, on one rank.
using Whole = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;
using Sharded = std::function<at::Tensor(const at::Tensor&)>;

// The loss is the sum over ranks of (w_r * y_r^2): first and second order (its double backward) are compared.
// With `replicated`, y is one value on all ranks and the loss counts it once.
void check(Communicator& ranks, const std::string& what, const std::vector<std::vector<int64_t>>& shapes,
           const Sharded& op, const Whole& whole, bool replicated_out, bool replicated_in) {
  const int64_t n = ranks.mesh().world_size(), me = ranks.mesh().rank();
  std::vector<at::Tensor> xs;
  for (int64_t r = 0; r < n; ++r) {
    xs.push_back(drawn(replicated_in ? 0 : r, shapes[static_cast<size_t>(r)], 1));
    if (!replicated_in || r == 0) xs.back().set_requires_grad(true);
  }
  if (replicated_in) {
    for (size_t r = 1; r < xs.size(); ++r) xs[r] = xs[0];
  }
  const std::vector<at::Tensor> ys = whole(xs);
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (int64_t r = 0; r < (replicated_out ? 1 : n); ++r) {
    const at::Tensor& y = ys[static_cast<size_t>(r)];
    loss = loss + (drawn(r, y.sizes(), 2) * y * y).sum();
  }
  const at::Tensor expected = torch::autograd::grad({loss}, {xs[static_cast<size_t>(me)]})[0];

  const at::Tensor x = xs[static_cast<size_t>(me)].detach().clone().set_requires_grad(true);
  const at::Tensor y = op(x);
  same(y, ys[static_cast<size_t>(me)], what + " forward");
  const at::Tensor own = (drawn(replicated_out ? 0 : me, y.sizes(), 2) * y * y).sum();
  same(torch::autograd::grad({own}, {x})[0], expected, what + " backward");
}

void check_all(World& world) {
  const int64_t n = world.size(), me = world.rank();
  const auto ranks = world.make_communicator(Mesh({{"tensor", n}}, n, me));
  const Axes axes{"tensor"};
  Communicator* r = ranks.get();
  const auto alike = [&](const std::vector<int64_t>& shape) {
    return std::vector<std::vector<int64_t>>(static_cast<size_t>(n), shape);
  };
  const auto sum = [](const std::vector<at::Tensor>& xs) { return at::stack(xs).sum(0); };
  const auto everywhere = [n](const at::Tensor& x) {
    return std::vector<at::Tensor>(static_cast<size_t>(n), x);
  };
  const Sizes uneven = even_sizes(2 * n + 1, n);
  std::vector<std::vector<int64_t>> shards;
  for (const int64_t size : uneven) shards.push_back({2, size});

  check(
      *ranks, "copy_to", alike({3, 2}), [&](const at::Tensor& x) { return copy_to(x, r, axes); },
      [&](const auto& xs) { return everywhere(xs[0]); }, false, true);
  check(
      *ranks, "reduce_from", alike({3, 2}), [&](const at::Tensor& x) { return reduce_from(x, r, axes); },
      [&](const auto& xs) { return everywhere(sum(xs)); }, true, false);
  check(
      *ranks, "gather_from", shards, [&](const at::Tensor& x) { return gather_from(x, 1, r, axes, uneven); },
      [&](const auto& xs) { return everywhere(at::cat(xs, 1)); }, false, false);
  check(
      *ranks, "reduce_scatter_to", alike({2, 2 * n + 1}),
      [&](const at::Tensor& x) { return reduce_scatter_to(x, 1, r, axes, uneven); },
      [&](const auto& xs) { return sum(xs).split_with_sizes(uneven, 1); }, false, false);
  check(
      *ranks, "scatter_to", alike({2, 2 * n + 1}),
      [&](const at::Tensor& x) { return scatter_to(x, 1, r, axes, uneven); },
      [&](const auto& xs) { return xs[0].split_with_sizes(uneven, 1); }, false, true);
  check(
      *ranks, "replicate_from", shards,
      [&](const at::Tensor& x) { return replicate_from(x, -1, r, axes, uneven); },
      [&](const auto& xs) { return everywhere(at::cat(xs, 1)); }, true, false);
  check(
      *ranks, "reduce_scatter_to, added to in place", alike({2 * n + 1, 2}),
      [&](const at::Tensor& x) { return reduce_scatter_to(x, 0, r, axes, uneven).add_(1.0); },
      [&](const auto& xs) { return (sum(xs) + 1.0).split_with_sizes(uneven, 0); }, false, false);
  const Sizes heads = even_sizes(2 * n - 1, n);
  std::vector<std::vector<int64_t>> rows;
  for (const int64_t size : uneven) rows.push_back({size, 2 * n - 1, 2});
  check(
      *ranks, "all_to_all", rows,
      [&](const at::Tensor& x) { return all_to_all(x, 1, 0, r, axes, heads, uneven); },
      [&](const auto& xs) { return at::cat(xs, 0).split_with_sizes(heads, 1); }, false, false);
  for (int64_t root = 0; root < n; ++root) {
    check(
        *ranks, "broadcast_from", alike({3, 2}),
        [&](const at::Tensor& x) { return broadcast_from(x, root, r, axes); },
        [&](const auto& xs) { return everywhere(xs[static_cast<size_t>(root)] + 0.0 * sum(xs)); }, false,
        false);
  }
  for (const int64_t by : {int64_t{1}, int64_t{-1}, n, n + 1}) {
    check(
        *ranks, "shift", alike({3, 2}),
        [&](const at::Tensor& x) { return shift(x.t(), by, r, axes).t().add_(1.0); },
        [&](const auto& xs) {
          std::vector<at::Tensor> ys;
          for (int64_t to = 0; to < n; ++to)
            ys.push_back(xs[static_cast<size_t>(((to - by) % n + n) % n)] + 1.0);
          return ys;
        },
        false, false);
  }
}

// A function of rank 0's x that goes through all ranks, each with a weight of its own: y = w2 sin(w1 sin(w0
// x)).
void check_relay(World& world) {
  const int64_t n = world.size(), me = world.rank();
  const auto ranks = world.make_communicator(Mesh({{"pipe", n}}, n, me));
  const Axes axes{"pipe"};
  std::vector<at::Tensor> leaves{drawn(0, {2, 3}, 0).set_requires_grad(true)};
  for (int64_t r = 0; r < n; ++r) leaves.push_back(drawn(r, {2, 3}, 1).set_requires_grad(true));
  at::Tensor y = leaves[0];
  for (int64_t r = 0; r < n; ++r) y = at::sin(y * leaves[static_cast<size_t>(r) + 1]);
  y.square().sum().backward();

  const at::Tensor x = leaves[0].detach().clone().set_requires_grad(true);
  const at::Tensor w = leaves[static_cast<size_t>(me) + 1].detach().clone().set_requires_grad(true);
  for (int repeat = 0; repeat < 2; ++repeat) {
    x.mutable_grad().reset();
    w.mutable_grad().reset();
    const at::Tensor in =
        me == 0 ? x : receive_from(me - 1, {2, 3}, x.options().requires_grad(false), *ranks, axes);
    const at::Tensor out = at::sin(in * w);
    (me + 1 == n ? out.square().sum() : send_to(out, me + 1, *ranks, axes).sum()).backward();
    same(w.grad(), leaves[static_cast<size_t>(me) + 1].grad(), "weight of a rank");
    if (me == 0) same(x.grad(), leaves[0].grad(), "what the first rank sent");
  }
  require(ranks->traffic().at({"pipe", me + 1 == n ? "recv" : "send"}).calls >= 2, "what crosses is counted");
}

// Nobody waits for a gradient that the sender has no use for; later ones find their way.
void check_without_gradient(World& world) {
  const auto ranks = world.make_communicator(Mesh({{"pipe", 2}}, 2, world.rank()));
  const Axes axes{"pipe"};
  const at::TensorOptions options(at::kDouble);
  if (world.rank() == 0) {
    require(!send_to(at::ones({2}, options), 1, *ranks, axes).requires_grad(), "an input has no gradient");
    const at::Tensor x = at::ones({2}, options).set_requires_grad(true);
    send_to(x, 1, *ranks, axes).sum().backward();
    same(x.grad(), at::full({2}, 3.0, options), "gradient of the second");
    return;
  }
  const at::Tensor first = receive_from(0, {2}, options, *ranks, axes);
  require(!first.requires_grad(), "what needs no gradient there needs none here");
  (receive_from(0, {2}, options, *ranks, axes) * 3 * first).sum().backward();
}

TEST(Collectives, WhatNeedsNoGradientBringsNoneBack) {
  EXPECT_EQ(testing::failures(testing::run_ranks(2, check_without_gradient)), "");
}

TEST(Collectives, GradientsComeBackFromWhereValuesWent) {
  EXPECT_EQ(testing::failures(testing::run_ranks(3, check_relay)), "");
}

TEST(Collectives, SendsAndShiftsOverLinesThatMustBeConnected) {
  const auto body = [](World& world) {
    check_relay(world);
    check_all(world);
  };
  EXPECT_EQ(testing::failures(testing::run_ranks(3, body, {.connect_sends = true})), "");
}

TEST(Collectives, GradientsOfTwoRanks) { EXPECT_EQ(testing::failures(testing::run_ranks(2, check_all)), ""); }

TEST(Collectives, GradientsOfThreeRanks) {
  EXPECT_EQ(testing::failures(testing::run_ranks(3, check_all)), "");
}

TEST(Collectives, OneRankAndNoMeshAddNothing) {
  Communicator self(Mesh::single());
  const at::Tensor x = at::ones({4, 4}).set_requires_grad(true);
  for (Communicator* ranks : {static_cast<Communicator*>(nullptr), &self}) {
    EXPECT_TRUE(copy_to(x, ranks, {"tensor"}).is_same(x));
    EXPECT_TRUE(reduce_from(x, ranks, {"tensor"}).is_same(x));
    EXPECT_TRUE(gather_from(x, 0, ranks, {"ring"}).is_same(x));
    EXPECT_TRUE(reduce_scatter_to(x, 0, ranks, {"ring"}).is_same(x));
    EXPECT_TRUE(scatter_to(x, 0, ranks, {"ring"}).is_same(x));
    EXPECT_TRUE(replicate_from(x, 0, ranks, {"ring"}).is_same(x));
    EXPECT_TRUE(all_to_all(x, 0, 1, ranks, {"ulysses", "ring"}).is_same(x));
    EXPECT_TRUE(broadcast_from(x, 0, ranks, {"ring"}).is_same(x));
    EXPECT_TRUE(shift(x, 1, ranks, {"ring"}).is_same(x));
  }
  EXPECT_TRUE(self.traffic().empty());
  EXPECT_EQ(even_sizes(7, 3), (Sizes{3, 2, 2}));
  EXPECT_EQ(even_sizes(1, 3), (Sizes{1, 0, 0}));
}

}  // namespace
}  // namespace axial::parallel
