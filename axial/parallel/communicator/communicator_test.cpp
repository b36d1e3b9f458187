// SPDX-License-Identifier: Apache-2.0
// The communicator of one rank gives back what it gets; wrong arguments are refused as in any group; bytes
// are those of the published formulas. Values over several ranks: ranks_test.cpp.
#include "axial/parallel/communicator/communicator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/parallel/communicator/recording.h"

namespace axial::parallel {
namespace {

TEST(Communicator, OneRankIsTheIdentityAndSendsNothing) {
  Communicator self(Mesh::single());
  const at::Tensor x = at::arange(6, at::kFloat).reshape({2, 3});
  EXPECT_TRUE(self.all_reduce(x, {"data", "ring"}, ReduceOp::kSum).is_same(x));
  EXPECT_TRUE(at::equal(self.all_gather(x, 1, {"tensor"}), x));
  EXPECT_TRUE(at::equal(self.reduce_scatter(x, -1, {"tensor"}, ReduceOp::kMax), x));
  EXPECT_TRUE(at::equal(self.all_to_all(x, 0, 1, {"ulysses"}), x));
  EXPECT_TRUE(at::equal(self.broadcast(x, 0, {"data"}), x));
  self.barrier({"data"});
  self.all_reduce(x, {"ring", "data"}, ReduceOp::kMax);
  ASSERT_EQ(self.traffic().size(), 6u);
  EXPECT_EQ(self.traffic().at({"data+ring", "all_reduce"}), (Traffic{2, 0}));
  EXPECT_EQ(self.traffic().at({"tensor", "all_gather"}), (Traffic{1, 0}));
}

TEST(Communicator, RefusesWrongArgumentsBeforeSending) {
  std::vector<RecordedCall> calls;
  Communicator ranks(Mesh({{"data", 2}, {"ring", 2}}, 4, 1), make_recording_transport(&calls), nullptr, {});
  at::Tensor x = at::zeros({2, 3});
  EXPECT_THROW(ranks.all_reduce(x, {"dta"}, ReduceOp::kSum), ValueError);
  EXPECT_THROW(ranks.all_reduce(x, {"data", "data"}, ReduceOp::kSum), ValueError);
  EXPECT_THROW(ranks.all_gather(x, 2, {"data"}), ValueError);
  EXPECT_THROW(ranks.all_gather(x, 0, {"data"}, {2, 3, 4}), ValueError);
  EXPECT_THROW(ranks.all_gather(x, 0, {"ring"}, {2, 3}), ValueError);  // this rank has 2, not 3
  EXPECT_THROW(ranks.reduce_scatter(x, -3, {"data"}, ReduceOp::kSum), ValueError);
  EXPECT_THROW(ranks.reduce_scatter(x, 1, {"data"}, ReduceOp::kSum), ValueError);
  EXPECT_THROW(ranks.reduce_scatter(x, 1, {"data"}, ReduceOp::kSum, {1, 1}), ValueError);
  EXPECT_THROW(ranks.all_to_all(x, 1, 0, {"data"}), ValueError);
  EXPECT_THROW(ranks.all_to_all(x, 1, 0, {"data"}, {4, -1}), ValueError);
  EXPECT_THROW(ranks.broadcast(x, 2, {"data"}), ValueError);
  EXPECT_THROW(ranks.send(x, 0, {"data"}), ValueError);  // rank 1 is place 0 of its data group
  EXPECT_THROW(ranks.recv(x, 2, {"data"}), ValueError);
  EXPECT_TRUE(ranks.traffic().empty());
  EXPECT_TRUE(calls.empty());
  EXPECT_THROW(Communicator(Mesh({{"data", 2}}, 2, 0)), ValueError);
}

TEST(Communicator, CountsBytesPerAxisAndOp) {
  Communicator ranks(Mesh({{"data", 4}, {"tensor", 2}}, 8, 3), make_recording_transport(), nullptr, {});
  const at::Tensor x = at::zeros({8, 4});  // 128 bytes
  ranks.all_reduce(x, {"data"}, ReduceOp::kSum);
  ranks.all_gather(x, 0, {"tensor"});
  ranks.reduce_scatter(x, 0, {"tensor", "data"}, ReduceOp::kSum);
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

TEST(Communicator, PaddingOfUnevenPiecesIsCountedApart) {
  Communicator ranks(Mesh({{"ring", 4}}, 4, 3), make_recording_transport(), nullptr, {});
  const at::Tensor x = at::zeros({2, 4});  // 32 bytes, of which the largest rank has 48
  ranks.all_gather(x, 0, {"ring"}, {3, 3, 3, 2});
  EXPECT_EQ(ranks.traffic().at({"ring", "all_gather"}), (Traffic{1, 3 * 48, 3 * 16}));
  ranks.reduce_scatter(at::zeros({11, 4}), 0, {"ring"}, ReduceOp::kSum, {3, 3, 3, 2});
  EXPECT_EQ(ranks.traffic().at({"ring", "reduce_scatter"}), (Traffic{1, 144, 12}));
}

TEST(Communicator, SixteenBitSumsTravelInFp32) {
  Communicator ranks(Mesh({{"data", 2}}, 2, 0), make_recording_transport(), nullptr, {});
  const at::Tensor x = at::zeros({8}, at::kBFloat16);
  EXPECT_EQ(ranks.all_reduce(x, {"data"}, ReduceOp::kSum).scalar_type(), at::kBFloat16);
  EXPECT_EQ(ranks.traffic().at({"data", "all_reduce"}), (Traffic{1, 32}));
  EXPECT_EQ(ranks.all_gather(x, 0, {"data"}).scalar_type(), at::kBFloat16);
  EXPECT_EQ(ranks.traffic().at({"data", "all_gather"}), (Traffic{1, 16}));
}

TEST(Communicator, ShapesOnMeta) {
  Communicator ranks(Mesh({{"ulysses", 3}}, 3, 1), make_recording_transport(), nullptr, {});
  const at::Tensor x = at::empty({5, 7, 2}, at::TensorOptions().device(at::kMeta));
  EXPECT_EQ(ranks.all_gather(x, 1, {"ulysses"}, {8, 7, 6}).sizes(), (at::IntArrayRef{5, 21, 2}));
  EXPECT_EQ(ranks.all_to_all(x, 1, 0, {"ulysses"}, {3, 2, 2}, {4, 5, 6}).sizes(),
            (at::IntArrayRef{15, 2, 2}));
  EXPECT_EQ(ranks.reduce_scatter(x, 1, {"ulysses"}, ReduceOp::kSum, {3, 2, 2}).sizes(),
            (at::IntArrayRef{5, 2, 2}));
}

}  // namespace
}  // namespace axial::parallel
