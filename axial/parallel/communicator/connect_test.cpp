// SPDX-License-Identifier: Apache-2.0
// Lines that must be connected, as NCCL's, here over Gloo; groups split from a backend that somebody else
// made; and tensors of devices that nothing can send.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <numeric>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <utility>

#include "axial/parallel/communicator/c10d.h"
#include "axial/parallel/communicator/world.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::parallel {
namespace {

using testing::failures;
using testing::require;
using testing::run_ranks;

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Every rank sends first, to both neighbours and over two channels, and receives afterwards.
void exchange_with_neighbours(Communicator& ranks, const Axes& axes) {
  const int64_t n = ranks.mesh().group_size(axes), me = ranks.mesh().group_rank(axes, ranks.mesh().rank());
  std::vector<Pending> sends;
  const auto value = [](int64_t from, int64_t to, int64_t channel, int64_t i) {
    return at::full({3, 2}, static_cast<double>(1000 * from + 100 * to + 10 * channel + i), at::kDouble);
  };
  for (const int64_t step : {int64_t{1}, n - 1}) {
    for (const int64_t channel : {0, 5}) {
      for (int64_t i = 0; i < 3; ++i) {
        const int64_t to = (me + step) % n;
        sends.push_back(ranks.start_send(value(me, to, channel, i), to, axes, {channel}));
      }
    }
  }
  for (const int64_t channel : {5, 0}) {
    for (const int64_t step : {n - 1, int64_t{1}}) {
      const int64_t from = (me + step) % n;
      for (int64_t i = 0; i < 3; ++i) {
        at::Tensor got = at::empty({3, 2}, at::kDouble);
        ranks.start_recv(got, from, axes, {channel}).wait();
        require(at::equal(got, value(from, me, channel, i)), "another message than the one that was due");
      }
    }
  }
  for (Pending& send : sends) send.wait();
}

std::vector<Line> neighbours(int64_t n) {
  std::vector<Line> lines;
  for (int64_t r = 0; r < n; ++r) {
    for (const int64_t channel : {0, 5}) {
      lines.push_back({r, (r + 1) % n, channel});
      lines.push_back({r, (r + n - 1) % n, channel});
    }
  }
  return lines;
}

TEST(Connect, SendsNeedALineThatBothEndsMade) {
  const auto body = [](World& world) {
    const auto ranks =
        world.make_communicator(Mesh({{"data", 1}, {"pipe", 3}, {"ring", 2}}, 6, world.rank()));
    const std::string error =
        error_of([&] { ranks->send(at::ones({2}), (ranks->mesh().coordinate("pipe") + 1) % 3, {"pipe"}); });
    require(contains(error, "send from place") && contains(error, "connect()"), error);
    for (int repeat = 0; repeat < 2; ++repeat) {
      for (const Axes& axes : {Axes{"pipe"}, Axes{"ring"}, Axes{"pipe", "ring"}}) {
        ranks->connect(neighbours(ranks->mesh().group_size(axes)), axes, at::kCPU);
        exchange_with_neighbours(*ranks, axes);
      }
    }
    require(contains(error_of([&] {
                       ranks->connect({{0, 1, 0}}, {"rings"}, at::kCPU);
                     }),
                     "'rings'"),
            "unknown axis");
  };
  EXPECT_EQ(failures(run_ranks(6, body, {.connect_sends = true})), "");
}

TEST(Connect, ALineWhoseOtherEndDiesIsNamed) {
  const auto body = [](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"pipe", 2}}, 2, world.rank()));
    if (world.rank() == 1) throw Error("told to stop");
    const std::string error = error_of([&] { ranks->connect({{0, 1, 0}}, {"pipe"}, at::kCPU); });
    require(
        contains(error, "connect #1 over 'pipe' with rank 1 at rank 0") && contains(error, "told to stop"),
        error);
  };
  const auto outcomes =
      run_ranks(2, body, {.collective_timeout = std::chrono::seconds(4), .connect_sends = true});
  EXPECT_TRUE(outcomes[0].ok()) << outcomes[0].message;
  EXPECT_EQ(outcomes[1].message, "told to stop");
}

TEST(Connect, TensorsOfDevicesAreRefusedWhereNothingCanSendThem) {
  const auto body = [](World& world) {
    const auto ranks = world.make_communicator(Mesh({{"data", 2}}, 2, world.rank()));
    const std::string error = error_of(
        [&] { ranks->all_reduce(at::empty({2}, at::TensorOptions(at::kMeta)), {"data"}, ReduceOp::kSum); });
    require(contains(error, "tensor on meta; expected the host"), error);
  };
  EXPECT_EQ(failures(run_ranks(2, body, {.compare_calls = false})), "");
}

// As a host program's process group, which exists before any mesh.
TEST(Adopted, GroupsAreSplitFromWhatIsThere) {
  const auto body = [](World& world) {
    std::vector<int64_t> all(4);
    std::iota(all.begin(), all.end(), 0);
    const Group group{"world", all, world.rank(), 0};
    const char* path = std::getenv("AXIAL_TEST_RANKS_FOLDER");
    const auto store = c10::make_intrusive<c10d::FileStore>(std::string(path) + "/adopted", 4);
    const auto theirs = gloo_backends(store, std::chrono::seconds(60))(group);
    Communicator ranks(Mesh({{"data", 2}, {"pipe", 2}}, 4, world.rank()),
                       make_c10d_transport({adopted_backends(theirs, store)}, {}, group), nullptr, {});
    for (const Axes& axes : {Axes{"data", "pipe"}, Axes{"data"}, Axes{"pipe"}}) {
      double sum = 0;
      for (const int64_t r : ranks.mesh().group(axes, world.rank())) sum += static_cast<double>(r);
      const at::Tensor mine = at::full({3}, static_cast<double>(world.rank()), at::kDouble);
      require(at::equal(ranks.all_reduce(mine, axes, ReduceOp::kSum), at::full({3}, sum, at::kDouble)),
              "sum over a part of an adopted group");
      exchange_with_neighbours(ranks, axes);
      ranks.barrier(axes);
    }
  };
  EXPECT_EQ(failures(run_ranks(4, body)), "");
}

}  // namespace
}  // namespace axial::parallel
