// SPDX-License-Identifier: Apache-2.0
// Every collective over real processes, against what all ranks' tensors say it must be; and what a rank
// that dies, hangs, stops or strays makes of the others.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "axial/parallel/communicator/world.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using testing::failures;
using ::testing::HasSubstr;
using testing::require;
using testing::run_ranks;

constexpr at::ScalarType kDtypes[] = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kLong};

// Small whole numbers, so that sums are exact in every dtype; different on every rank.
at::Tensor tensor_of(int64_t rank, at::IntArrayRef shape, at::ScalarType dtype) {
  const int64_t n = c10::multiply_integers(shape);
  return ((at::arange(n, at::kLong) * 7 + rank * 5) % 11 + rank).to(dtype).reshape(shape);
}

void same(const at::Tensor& got, const at::Tensor& expected, const std::string& what) {
  require(got.scalar_type() == expected.scalar_type() && got.sizes() == expected.sizes() &&
              at::equal(got, expected),
          what + ": other values than expected");
}

void check_group(Communicator& ranks, const Axes& axes, at::ScalarType dtype) {
  const std::vector<int64_t> group = ranks.mesh().group(axes, ranks.mesh().rank());
  const auto n = static_cast<int64_t>(group.size());
  const int64_t me = ranks.mesh().group_rank(axes, ranks.mesh().rank());
  std::vector<at::Tensor> all;
  for (const int64_t r : group) all.push_back(tensor_of(r, {2 * n, 3, n}, dtype));
  const at::Tensor mine = all[static_cast<size_t>(me)];
  const at::Tensor kept = mine.clone();
  const at::Tensor sum = at::stack(all).sum(0).to(dtype);

  same(ranks.all_reduce(mine, axes, ReduceOp::kSum), sum, "all_reduce");
  same(ranks.all_reduce(mine.transpose(0, 1), axes, ReduceOp::kMax), at::stack(all).amax(0).transpose(0, 1),
       "all_reduce max, transposed");
  for (const int64_t dim : {0, 1, -1}) {
    same(ranks.all_gather(mine, dim, axes), at::cat(all, dim), "all_gather");
  }
  same(ranks.reduce_scatter(mine, 0, axes, ReduceOp::kSum), sum.narrow(0, 2 * me, 2), "reduce_scatter 0");
  same(ranks.reduce_scatter(mine, 2, axes, ReduceOp::kSum), sum.narrow(2, me, 1), "reduce_scatter 2");
  std::vector<at::Tensor> pieces;
  for (const at::Tensor& t : all) pieces.push_back(t.narrow(2, me, 1));
  same(ranks.all_to_all(mine, 2, 1, axes), at::cat(pieces, 1), "all_to_all");
  for (int64_t root = 0; root < n; ++root) {
    same(ranks.broadcast(mine, root, axes), all[static_cast<size_t>(root)], "broadcast");
  }
  same(mine, kept, "an input that no call may change");
}

// Rank r of the group holds r + 1 rows: nothing is even, one piece may be empty.
void check_uneven(Communicator& ranks, const Axes& axes) {
  const std::vector<int64_t> group = ranks.mesh().group(axes, ranks.mesh().rank());
  const auto n = static_cast<int64_t>(group.size());
  const int64_t me = ranks.mesh().group_rank(axes, ranks.mesh().rank());
  Sizes sizes;
  std::vector<at::Tensor> all, whole;
  int64_t total = 0, before = 0;
  for (int64_t r = 0; r < n; ++r) {
    sizes.push_back(r);
    total += r;
    if (r < me) before += r;
  }
  for (int64_t r = 0; r < n; ++r) {
    all.push_back(tensor_of(group[static_cast<size_t>(r)], {2, r, 3}, at::kFloat));
    whole.push_back(tensor_of(group[static_cast<size_t>(r)], {total, 2}, at::kFloat));
  }
  same(ranks.all_gather(all[static_cast<size_t>(me)], 1, axes, sizes), at::cat(all, 1), "uneven all_gather");
  same(ranks.reduce_scatter(whole[static_cast<size_t>(me)], 0, axes, ReduceOp::kSum, sizes),
       at::stack(whole).sum(0).narrow(0, before, me), "uneven reduce_scatter");
  // Heads [2, total heads, 3] of my rows -> my heads of all rows, and back.
  std::vector<at::Tensor> rows, joined;
  for (int64_t r = 0; r < n; ++r) {
    rows.push_back(tensor_of(group[static_cast<size_t>(r)], {r + 1, total, 3}, at::kFloat));
    joined.push_back(rows.back().narrow(1, before, me));
  }
  Sizes row_sizes;
  for (int64_t r = 0; r < n; ++r) row_sizes.push_back(r + 1);
  const at::Tensor there = ranks.all_to_all(rows[static_cast<size_t>(me)], 1, 0, axes, sizes, row_sizes);
  same(there, at::cat(joined, 0), "uneven all_to_all");
  same(ranks.all_to_all(there, 0, 1, axes, row_sizes, sizes), rows[static_cast<size_t>(me)],
       "uneven all_to_all back");
}

void check_pairs(Communicator& ranks, const Axes& axes) {
  const std::vector<int64_t> group = ranks.mesh().group(axes, ranks.mesh().rank());
  const auto n = static_cast<int64_t>(group.size());
  if (n == 1) return;
  const int64_t me = ranks.mesh().group_rank(axes, ranks.mesh().rank());
  const int64_t next = (me + 1) % n, last = (me + n - 1) % n;
  // Two transfers of each direction at a time, waited for in the other order.
  const at::Tensor a = tensor_of(ranks.mesh().rank(), {3, 2}, at::kFloat);
  const at::Tensor b = a + 100;
  at::Tensor from_a = at::zeros({3, 2}), from_b = at::zeros({3, 2});
  Pending s1 = ranks.start_send(a, next, axes), s2 = ranks.start_send(b, next, axes);
  Pending r1 = ranks.start_recv(from_a, last, axes), r2 = ranks.start_recv(from_b, last, axes);
  r2.wait(), r1.wait(), s2.wait(), s1.wait();
  const at::Tensor expected = tensor_of(group[static_cast<size_t>(last)], {3, 2}, at::kFloat);
  same(from_a, expected, "first send");
  same(from_b, expected + 100, "second send");
}

void check_all(World& world, std::vector<MeshAxis> axes) {
  const auto ranks = world.make_communicator(Mesh(std::move(axes), world.size(), world.rank()));
  std::vector<Axes> groups{{}};
  for (const MeshAxis& axis : ranks->mesh().axes()) {
    const std::vector<Axes> before = groups;
    for (Axes group : before) {
      group.push_back(axis.name);
      groups.push_back(group);
    }
  }
  for (const Axes& group : groups) {
    for (const at::ScalarType dtype : kDtypes) check_group(*ranks, group, dtype);
    check_uneven(*ranks, group);
    check_pairs(*ranks, group);
    ranks->barrier(group);
  }
}

TEST(Ranks, EveryCollectiveOfTwo) {
  EXPECT_EQ(failures(run_ranks(2, [](World& world) { check_all(world, {{"data", 2}}); })), "");
}

TEST(Ranks, EveryCollectiveOfEverySubsetOfAxes) {
  EXPECT_EQ(failures(run_ranks(6, [](World& world) { check_all(world, {{"data", 3}, {"tensor", 2}}); })), "");
}

TEST(Ranks, AFileIsAMeetingPlaceToo) {
  const auto outcomes = run_ranks(3, [](World& world) {
    const std::string folder = std::getenv("AXIAL_TEST_RANKS_FOLDER");
    const World other = World::from_file(folder + "/store", world.rank(), 3, {});
    const auto ranks = other.make_communicator(Mesh({{"data", 3}}, 3, world.rank()));
    same(ranks->all_reduce(at::ones({2}), {"data"}, ReduceOp::kSum), at::full({2}, 3.0F), "sum");
    other.first_alone([] {});
  });
  EXPECT_EQ(failures(outcomes), "");
}

TEST(Ranks, CallsMayOverlapAndBeWaitedForInAnyOrder) {
  const auto outcomes = run_ranks(3, [](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"data", 3}}, 3, world.rank()));
    std::vector<Pending> pending;
    for (int64_t i = 0; i < 8; ++i) {
      pending.push_back(
          ranks->start_all_reduce(at::full({1000}, i + world.rank(), at::kDouble), {"data"}, ReduceOp::kSum));
    }
    for (int64_t i = 7; i >= 0; --i) {
      same(pending[static_cast<size_t>(i)].wait(), at::full({1000}, 3 * i + 3, at::kDouble), "overlapped");
    }
  });
  EXPECT_EQ(failures(outcomes), "");
}

// What rank 1 does in the middle of a run, and what the others must say of it.
void lose_rank_one(const std::function<void()>& fault, const std::string& said) {
  testing::RanksOptions options;
  options.collective_timeout = std::chrono::seconds(3);
  const auto outcomes = run_ranks(
      3,
      [&](World& world) {
        const auto ranks = world.make_communicator(Mesh({{"data", 3}, {"tensor", 1}}, 3, world.rank()));
        for (int i = 0; i < 50; ++i) {
          if (world.rank() == 1 && i == 20) fault();
          ranks->all_gather(at::full({100}, i), 0, {"data"});
        }
      },
      options);
  for (const size_t r : {0, 2}) {
    EXPECT_EQ(outcomes[r].exit_code, 1) << r;
    EXPECT_FALSE(outcomes[r].overdue) << r;
    EXPECT_THAT(outcomes[r].message, HasSubstr("all_gather #21 over 'data' at rank " + std::to_string(r)))
        << r;
    EXPECT_THAT(outcomes[r].message, HasSubstr(said)) << r;
  }
}

TEST(Ranks, AKilledRankIsNamed) {
  lose_rank_one([] { raise(SIGKILL); }, "rank 1 gives no sign of life; last seen ");
}

TEST(Ranks, AStoppedRankIsNamedWithinTheTimeout) {
  lose_rank_one([] { raise(SIGSTOP); }, "rank 1 gives no sign of life; last seen ");
}

// A call that rank 1 begins and never ends.
struct Kind {
  const char* name;
  std::function<Pending(Communicator&, const at::Tensor&)> start;
};

std::vector<Kind> every_kind() {
  const Axes axes{"data"};
  const auto other = [](const Communicator& ranks) { return 1 - ranks.mesh().rank(); };
  return {
      {"all_reduce", [=](auto& r, const auto& x) { return r.start_all_reduce(x, axes, ReduceOp::kSum); }},
      {"all_gather", [=](auto& r, const auto& x) { return r.start_all_gather(x, 0, axes); }},
      {"reduce_scatter",
       [=](auto& r, const auto& x) { return r.start_reduce_scatter(x, 0, axes, ReduceOp::kSum); }},
      {"all_to_all", [=](auto& r, const auto& x) { return r.start_all_to_all(x, 0, 0, axes); }},
      {"broadcast", [=](auto& r, const auto& x) { return r.start_broadcast(x, 1, axes); }},
      {"send", [=](auto& r, const auto& x) { return r.start_send(x, other(r), axes); }},
      {"recv", [=](auto& r, const auto& x) { return r.start_recv(x.clone(), other(r), axes); }},
      {"barrier", [=](auto& r, const auto&) { return r.start_barrier(axes); }},
  };
}

class LostInside : public ::testing::TestWithParam<std::tuple<size_t, int>> {};

// The first calls go well; in the third rank 1 is lost once it has begun it.
TEST_P(LostInside, TheCallIsNamed) {
  const Kind kind = every_kind()[std::get<0>(GetParam())];
  const int sign = std::get<1>(GetParam());
  testing::RanksOptions options;
  options.collective_timeout = std::chrono::seconds(2);
  options.compare_calls = false;
  const auto outcomes = run_ranks(
      2,
      [&](World& world) {
        const auto ranks = world.make_communicator(Mesh({{"data", 2}}, 2, world.rank()));
        const at::Tensor x = at::ones({1 << 22});
        const std::string name = kind.name;
        const Kind opposite = every_kind()[name == "send" ? 6 : 5];
        const bool paired = name == "send" || name == "recv";
        for (int i = 0; i < 20; ++i) {
          Pending call = (paired && world.rank() == 1 ? opposite : kind).start(*ranks, x);
          if (world.rank() == 1 && i == 2) raise(sign);
          call.wait();
        }
      },
      options);
  EXPECT_EQ(outcomes[0].exit_code, 1);
  EXPECT_EQ(outcomes[0].signal, 0);
  EXPECT_FALSE(outcomes[0].overdue);
  EXPECT_THAT(outcomes[0].message, HasSubstr(std::string(kind.name) + " #"));
  EXPECT_THAT(outcomes[0].message, HasSubstr("over 'data'"));
  EXPECT_THAT(outcomes[0].message, HasSubstr("rank 1 gives no sign of life"));
}

INSTANTIATE_TEST_SUITE_P(Ranks, LostInside,
                         ::testing::Combine(::testing::Range<size_t>(0, 8),
                                            ::testing::Values(SIGKILL, SIGSTOP)),
                         [](const auto& info) {
                           return std::string(every_kind()[std::get<0>(info.param)].name) +
                                  (std::get<1>(info.param) == SIGKILL ? "_killed" : "_stopped");
                         });

// A write to a rank that is gone raises SIGPIPE where it is not ignored.
TEST(Ranks, ABrokenPipeDoesNotEndARank) {
  EXPECT_EQ(failures(run_ranks(2, [](World&) { raise(SIGPIPE); })), "");
}

TEST(Ranks, ARankThatThrowsIsQuoted) {
  lose_rank_one([] { throw Error("[data] row 7 of 'x.fasta' is damaged"); },
                "rank 1 stopped: [data] row 7 of 'x.fasta' is damaged");
}

TEST(Ranks, ARankThatIsElsewhereIsNamed) {
  lose_rank_one([] { std::this_thread::sleep_for(std::chrono::seconds(7)); },
                "rank 1 did not come; it was after all_gather #20 over 'data'");
}

}  // namespace
}  // namespace axial::parallel
