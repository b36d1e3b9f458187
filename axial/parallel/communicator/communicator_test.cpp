// SPDX-License-Identifier: Apache-2.0
// The communicator of one rank gives back what it gets; wrong arguments are refused as in any group.
#include "axial/parallel/communicator/communicator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial::parallel {
namespace {

TEST(Communicator, OneRankIsTheIdentityAndSendsNothing) {
  const std::unique_ptr<Communicator> self = make_communicator(Mesh::single());
  const at::Tensor x = at::arange(6, at::kFloat).reshape({2, 3});
  EXPECT_TRUE(self->all_reduce(x, {"data", "ring"}, ReduceOp::kSum).is_same(x));
  EXPECT_TRUE(at::equal(self->all_gather(x, 1, {"tensor"}), x));
  EXPECT_TRUE(at::equal(self->reduce_scatter(x, -1, {"tensor"}, ReduceOp::kMax), x));
  EXPECT_TRUE(at::equal(self->all_to_all(x, 0, 1, {"ulysses"}), x));
  EXPECT_TRUE(at::equal(self->broadcast(x, 0, {"data"}), x));
  self->barrier({"data"});
  self->all_reduce(x, {"data", "ring"}, ReduceOp::kMax);
  ASSERT_EQ(self->traffic().size(), 6u);
  EXPECT_EQ(self->traffic().at({"data+ring", "all_reduce"}), (Traffic{2, 0}));
  EXPECT_EQ(self->traffic().at({"tensor", "all_gather"}), (Traffic{1, 0}));
}

TEST(Communicator, RefusesWrongArgumentsBeforeSending) {
  const std::unique_ptr<Communicator> self = make_communicator(Mesh::single());
  at::Tensor x = at::zeros({2, 3});
  EXPECT_THROW(self->all_reduce(x, {"dta"}, ReduceOp::kSum), ValueError);
  EXPECT_THROW(self->all_gather(x, 2, {"data"}), ValueError);
  EXPECT_THROW(self->reduce_scatter(x, -3, {"data"}, ReduceOp::kSum), ValueError);
  EXPECT_THROW(self->broadcast(x, 1, {"data"}), ValueError);
  EXPECT_THROW(self->send(x, 0, {"data"}), ValueError);
  EXPECT_THROW(self->recv(x, 0, {"data"}), ValueError);
  EXPECT_TRUE(self->traffic().empty());
  EXPECT_THROW(make_communicator(Mesh({{"data", 2}}, 2, 0)), UnsupportedError);
}

// The counts of larger groups, by a communicator that notes calls and has no peer.
class CountingOnly final : public Communicator {
 public:
  using Communicator::Communicator;

 private:
  at::Tensor do_all_reduce(const at::Tensor& t, const Group&, ReduceOp) override { return t; }
  at::Tensor do_all_gather(const at::Tensor& t, int64_t, const Group&) override { return t; }
  at::Tensor do_reduce_scatter(const at::Tensor& t, int64_t, const Group&, ReduceOp) override { return t; }
  at::Tensor do_all_to_all(const at::Tensor& t, int64_t, int64_t, const Group&) override { return t; }
  at::Tensor do_broadcast(const at::Tensor& t, int64_t, const Group&) override { return t; }
  void do_send(const at::Tensor&, int64_t, const Group&) override {}
  void do_recv(at::Tensor&, int64_t, const Group&) override {}
  void do_barrier(const Group&) override {}
};

TEST(Communicator, CountsBytesPerAxisAndOp) {
  CountingOnly ranks(Mesh({{"data", 4}, {"tensor", 2}}, 8, 3));
  at::Tensor x = at::zeros({8, 4});  // 128 bytes
  ranks.all_reduce(x, {"data"}, ReduceOp::kSum);
  ranks.all_gather(x, 0, {"tensor"});
  ranks.reduce_scatter(x, 0, {"data", "tensor"}, ReduceOp::kSum);
  ranks.all_to_all(x, 0, 1, {"data"});
  ranks.broadcast(x, 1, {"data"});
  ranks.send(x, 3, {"data"});
  EXPECT_EQ(ranks.traffic().at({"data", "all_reduce"}), (Traffic{1, 192}));
  EXPECT_EQ(ranks.traffic().at({"tensor", "all_gather"}), (Traffic{1, 128}));
  EXPECT_EQ(ranks.traffic().at({"data+tensor", "reduce_scatter"}), (Traffic{1, 112}));
  EXPECT_EQ(ranks.traffic().at({"data", "all_to_all"}), (Traffic{1, 96}));
  EXPECT_EQ(ranks.traffic().at({"data", "broadcast"}), (Traffic{1, 384}));
  EXPECT_EQ(ranks.traffic().at({"data", "send"}), (Traffic{1, 128}));
  EXPECT_THROW(ranks.reduce_scatter(at::zeros({6}), 0, {"data"}, ReduceOp::kSum), ValueError);
}

}  // namespace
}  // namespace axial::parallel
