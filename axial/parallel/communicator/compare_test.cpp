// SPDX-License-Identifier: Apache-2.0
// Ranks that are about to do different things are told so before anything is done, and both are shown.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "axial/parallel/communicator/world.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using testing::failures;
using ::testing::HasSubstr;
using testing::require;
using testing::run_ranks;

using Call = std::function<void(Communicator&)>;

// What the two ranks of 'data' do, and what the error says of each.
struct Difference {
  Call first, second;
  std::string says_of_first, says_of_second;
};

std::vector<Difference> differences() {
  const Axes axes{"data"};
  const at::Tensor x = at::zeros({4, 6});
  const auto reduce = [=](const at::Tensor& t, ReduceOp op) {
    return [=](Communicator& r) { r.all_reduce(t, axes, op); };
  };
  const auto gather = [=](const at::Tensor& t, int64_t dim, const Sizes& sizes = {}) {
    return [=](Communicator& r) { r.all_gather(t, dim, axes, sizes); };
  };
  const auto scatter = [=](int64_t dim, ReduceOp op) {
    return [=](Communicator& r) { r.reduce_scatter(x, dim, axes, op); };
  };
  const auto broadcast = [=](int64_t root) { return [=](Communicator& r) { r.broadcast(x, root, axes); }; };
  const auto exchange = [=](int64_t split, int64_t join, const Sizes& to = {}, const Sizes& from = {}) {
    return [=](Communicator& r) { r.all_to_all(x, split, join, axes, to, from); };
  };
  const auto barrier = [=](Communicator& r) { r.barrier(axes); };
  return {
      {reduce(x, ReduceOp::kSum), reduce(at::zeros({5}), ReduceOp::kSum), "all_reduce sum of [4, 6] Float",
       "all_reduce sum of [5] Float"},
      {reduce(x, ReduceOp::kSum), reduce(x.to(at::kDouble), ReduceOp::kSum), "[4, 6] Float", "[4, 6] Double"},
      {reduce(x, ReduceOp::kSum), reduce(x, ReduceOp::kMax), "all_reduce sum", "all_reduce max"},
      {gather(x, 0), gather(x, 1), "along dim 0", "along dim 1"},
      {gather(x, 0, {4, 4}), gather(at::zeros({3, 6}), 0, {4, 3}), "sizes [4, 4]", "sizes [4, 3]"},
      {scatter(0, ReduceOp::kSum), scatter(1, ReduceOp::kSum), "along dim 0", "along dim 1"},
      {scatter(0, ReduceOp::kSum), scatter(0, ReduceOp::kMax), "reduce_scatter sum", "reduce_scatter max"},
      {broadcast(0), broadcast(1), "from place 0", "from place 1"},
      {exchange(0, 1), exchange(1, 0), "along dims 0 and 1", "along dims 1 and 0"},
      {exchange(0, 1, {3, 1}, {6, 6}), exchange(0, 1, {2, 2}, {6, 6}),
       "6 elements to the other and 18 from it", "12 elements to the other and 12 from it"},
      {exchange(0, 1), gather(x, 0), "all_to_all Float", "all_gather [4, 6] Float"},
      {barrier, broadcast(0), "barrier", "broadcast [4, 6] Float from place 0"},
  };
}

std::string error_of(const Call& call, Communicator& ranks) {
  try {
    call(ranks);
  } catch (const CollectiveError& error) {
    return error.what();
  }
  return "";
}

TEST(Compare, EveryDifferenceIsShownOnBothRanks) {
  const auto outcomes = run_ranks(2, [](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"data", 2}}, 2, world.rank()));
    int64_t number = 0;
    for (const Difference& d : differences()) {
      const std::string error = error_of(world.rank() == 0 ? d.first : d.second, *ranks);
      const auto says = [&](int64_t rank, const std::string& what) {
        const size_t at = error.find("rank " + std::to_string(rank) + " makes ");
        require(at != std::string::npos && error.find(what, at) != std::string::npos,
                "'" + error + "' does not say '" + what + "' of rank " + std::to_string(rank));
      };
      says(0, d.says_of_first);
      says(1, d.says_of_second);
      const std::string call = "call #" + std::to_string(++number) + " over 'data' differs between ranks";
      require(error.find(call) != std::string::npos, error);
    }
    // Nothing was begun: the ranks can go on.
    const at::Tensor sum = ranks->all_reduce(at::ones({3}), {"data"}, ReduceOp::kSum);
    require(at::equal(sum, at::full({3}, 2)), "a sum after it");
  });
  EXPECT_EQ(failures(outcomes), "");
}

TEST(Compare, AMessageThatIsNotTheExpectedOneIsRefused) {
  const auto outcomes = run_ranks(2, [](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"pipe", 2}}, 2, world.rank()));
    at::Tensor into = at::zeros({3});
    for (int i = 0; i < 2; ++i) {  // alike, then not
      if (world.rank() == 0) ranks->send(at::ones({i == 0 ? 3 : 4}), 1, {"pipe"});
      if (world.rank() == 1) ranks->recv(into, 0, {"pipe"});
    }
  });
  EXPECT_EQ(outcomes[1].exit_code, 1);
  EXPECT_THAT(outcomes[1].message, HasSubstr("message over 'pipe', channel 0; rank 1 expects send [3] Float, "
                                             "rank 0 makes send [4] Float"));
}

// More than a line holds.
TEST(Compare, LongDescriptionsAreToldApart) {
  const auto outcomes = run_ranks(2, [](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"data", 2}}, 2, world.rank()));
    std::vector<int64_t> shape(60, 1);
    ranks->all_reduce(at::zeros(shape), {"data"}, ReduceOp::kSum);
    std::vector<int64_t> longer(200, 1);
    longer.back() = world.rank() == 0 ? 2 : 3;
    const std::string error =
        error_of([&](Communicator& r) { r.all_reduce(at::zeros(longer), {"data"}, ReduceOp::kSum); }, *ranks);
    require(error.find("differs between ranks") != std::string::npos, "a difference at the end: " + error);
  });
  EXPECT_EQ(failures(outcomes), "");
}

}  // namespace
}  // namespace axial::parallel
