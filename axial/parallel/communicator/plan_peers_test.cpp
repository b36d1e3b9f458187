// SPDX-License-Identifier: Apache-2.0
// Stages in threads exchange what they would over pipe; nobody waits for ever.
#include "axial/parallel/communicator/plan_peers.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {
namespace {

using ::testing::HasSubstr;

// `body` on every stage of a pipeline whose ranks are two of data each; what each threw.
std::vector<std::string> on_stages(int64_t stages, const std::function<void(Communicator&, int64_t)>& body) {
  PlanPeers peers("pipe", stages);
  std::vector<std::string> errors(static_cast<size_t>(stages));
  std::vector<std::thread> threads;
  for (int64_t stage = 0; stage < stages; ++stage) {
    threads.emplace_back([&, stage] {
      std::string& error = errors[static_cast<size_t>(stage)];
      try {
        Communicator ranks(Mesh({{"data", 2}, {"pipe", stages}}, 2 * stages, stage), peers.make_transport(),
                           nullptr, {});
        body(ranks, stage);
      } catch (const std::exception& e) {
        error = e.what();
      }
      peers.leave(error);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

TEST(PlanPeers, MessagesArriveInTheirOrderAndTheRestIsRecorded) {
  const auto errors = on_stages(3, [](Communicator& ranks, int64_t stage) {
    const at::TensorOptions meta(at::kMeta);
    for (int64_t i = 0; i < 4; ++i) {
      if (stage < 2)
        ranks.start_send(at::full({3}, 10 * stage + i, at::kLong), stage + 1, {"pipe"}, {1}).wait();
      if (stage < 2) ranks.start_send(at::empty({5, i}, meta), stage + 1, {"pipe"}, {2}).wait();
    }
    for (int64_t i = 0; i < 4 && stage > 0; ++i) {
      at::Tensor into = at::zeros({3}, at::kLong), shape = at::empty({5, i}, meta);
      ranks.start_recv(shape, stage - 1, {"pipe"}, {2}).wait();
      ranks.start_recv(into, stage - 1, {"pipe"}, {1}).wait();
      AXIAL_CHECK(into.eq(10 * (stage - 1) + i).all().item<bool>(), "test", "another message");
    }
    const at::Tensor shared = ranks.broadcast(at::full({2}, stage, at::kLong), 1, {"pipe"});
    AXIAL_CHECK(shared.eq(1).all().item<bool>(), "test", "another broadcast");
    ranks.all_reduce(at::empty({8}, meta), {"data"}, ReduceOp::kSum);
    AXIAL_CHECK(ranks.traffic().at({"data", "all_reduce"}).bytes == 32, "test", "other traffic");
  });
  EXPECT_THAT(errors, ::testing::Each(""));
}

TEST(PlanPeers, StagesThatWaitForEachOtherAreStopped) {
  const auto errors = on_stages(2, [](Communicator& ranks, int64_t stage) {
    at::Tensor into = at::zeros({3});
    ranks.recv(into, 1 - stage, {"pipe"});
  });
  EXPECT_THAT(errors, ::testing::Each(HasSubstr("every rank waits for a message of another")));
}

TEST(PlanPeers, AFailureStopsAll) {
  const auto errors = on_stages(2, [](Communicator& ranks, int64_t stage) {
    if (stage == 1) throw Error("block 7 is wrong");
    at::Tensor into = at::zeros({3});
    ranks.recv(into, 1, {"pipe"});
  });
  EXPECT_THAT(errors, ::testing::Each(HasSubstr("block 7 is wrong")));
}

TEST(PlanPeers, MessagesOfAnotherShapeAreRefused) {
  const auto errors = on_stages(2, [](Communicator& ranks, int64_t stage) {
    at::Tensor into = at::zeros({3});
    if (stage == 0) ranks.send(at::zeros({4}), 1, {"pipe"});
    if (stage == 1) ranks.recv(into, 0, {"pipe"});
  });
  EXPECT_EQ(errors[0], "");
  EXPECT_THAT(errors[1], HasSubstr("expected [3] Float, got [4] Float"));
}

}  // namespace
}  // namespace axial::parallel
