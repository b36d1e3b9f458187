// SPDX-License-Identifier: Apache-2.0
// Argument checks and byte counts common to all communicators, and the communicator of one rank.
//
// Bytes are those of the usual algorithms: a rank of a group of n sends 2 (n - 1) / n of the tensor in an
// all_reduce, (n - 1) / n in a reduce_scatter or all_to_all, n - 1 times its piece in an all_gather.
#include "axial/parallel/communicator/communicator.h"

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "communicator";

int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

int64_t checked_dim(const char* op, const at::Tensor& tensor, int64_t dim) {
  AXIAL_CHECK(-tensor.dim() <= dim && dim < tensor.dim(), kOp, "dim of {}; expected one of {} dims, got {}",
              op, tensor.dim(), dim);
  return dim < 0 ? dim + tensor.dim() : dim;
}

void check_divisible(const char* op, const at::Tensor& tensor, int64_t dim, int64_t size) {
  AXIAL_CHECK(tensor.size(dim) % size == 0, kOp, "dim {} of {}; expected a multiple of {} ranks, got {}", dim,
              op, size, tensor.size(dim));
}

// A group of one: every collective is the identity.
class SelfCommunicator final : public Communicator {
 public:
  using Communicator::Communicator;

 private:
  at::Tensor do_all_reduce(const at::Tensor& tensor, const Group&, ReduceOp) override { return tensor; }
  at::Tensor do_all_gather(const at::Tensor& tensor, int64_t, const Group&) override { return tensor; }
  at::Tensor do_reduce_scatter(const at::Tensor& tensor, int64_t, const Group&, ReduceOp) override {
    return tensor;
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, int64_t, int64_t, const Group&) override {
    return tensor;
  }
  at::Tensor do_broadcast(const at::Tensor& tensor, int64_t, const Group&) override { return tensor; }
  // send and recv need a peer, which a group of one has not: the checks before refuse every call.
  void do_send(const at::Tensor&, int64_t, const Group&) override {}
  void do_recv(at::Tensor&, int64_t, const Group&) override {}
  void do_barrier(const Group&) override {}
};

void check_peer(const char* op, int64_t peer, int64_t size, int64_t rank) {
  AXIAL_CHECK(0 <= peer && peer < size && peer != rank, kOp,
              "peer of {}; expected another rank of a group of {}, got {} at rank {}", op, size, peer, rank);
}

}  // namespace

Communicator::Communicator(Mesh mesh) : mesh_(std::move(mesh)) {}

Communicator::Group Communicator::group_of(const Axes& axes) const {
  return {axes, mesh_.group_size(axes), mesh_.group_rank(axes, mesh_.rank())};
}

void Communicator::count(const char* op, const Group& group, int64_t bytes) {
  Traffic& traffic = traffic_[{fmt::format("{}", fmt::join(group.axes, "+")), op}];
  traffic.calls += 1;
  traffic.bytes += bytes;
}

at::Tensor Communicator::all_reduce(const at::Tensor& tensor, const Axes& axes, ReduceOp op) {
  const Group group = group_of(axes);
  count("all_reduce", group, 2 * bytes_of(tensor) * (group.size - 1) / group.size);
  return do_all_reduce(tensor, group, op);
}

at::Tensor Communicator::all_gather(const at::Tensor& tensor, int64_t dim, const Axes& axes) {
  const Group group = group_of(axes);
  dim = checked_dim("all_gather", tensor, dim);
  count("all_gather", group, bytes_of(tensor) * (group.size - 1));
  return do_all_gather(tensor, dim, group);
}

at::Tensor Communicator::reduce_scatter(const at::Tensor& tensor, int64_t dim, const Axes& axes,
                                        ReduceOp op) {
  const Group group = group_of(axes);
  dim = checked_dim("reduce_scatter", tensor, dim);
  check_divisible("reduce_scatter", tensor, dim, group.size);
  count("reduce_scatter", group, bytes_of(tensor) * (group.size - 1) / group.size);
  return do_reduce_scatter(tensor, dim, group, op);
}

at::Tensor Communicator::all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim,
                                    const Axes& axes) {
  const Group group = group_of(axes);
  split_dim = checked_dim("all_to_all", tensor, split_dim);
  join_dim = checked_dim("all_to_all", tensor, join_dim);
  check_divisible("all_to_all", tensor, split_dim, group.size);
  count("all_to_all", group, bytes_of(tensor) * (group.size - 1) / group.size);
  return do_all_to_all(tensor, split_dim, join_dim, group);
}

at::Tensor Communicator::broadcast(const at::Tensor& tensor, int64_t root, const Axes& axes) {
  const Group group = group_of(axes);
  AXIAL_CHECK(0 <= root && root < group.size, kOp, "root of broadcast; expected one of [0, {}), got {}",
              group.size, root);
  count("broadcast", group, root == group.rank ? bytes_of(tensor) * (group.size - 1) : 0);
  return do_broadcast(tensor, root, group);
}

void Communicator::send(const at::Tensor& tensor, int64_t peer, const Axes& axes) {
  const Group group = group_of(axes);
  check_peer("send", peer, group.size, group.rank);
  count("send", group, bytes_of(tensor));
  do_send(tensor, peer, group);
}

void Communicator::recv(at::Tensor& into, int64_t peer, const Axes& axes) {
  const Group group = group_of(axes);
  check_peer("recv", peer, group.size, group.rank);
  count("recv", group, 0);
  do_recv(into, peer, group);
}

void Communicator::barrier(const Axes& axes) {
  const Group group = group_of(axes);
  count("barrier", group, 0);
  do_barrier(group);
}

std::unique_ptr<Communicator> make_communicator(Mesh mesh) {
  if (mesh.world_size() != 1) {
    fail<UnsupportedError>(kOp, "this build runs one rank; expected a world size of 1, got {}",
                           mesh.world_size());
  }
  return std::make_unique<SelfCommunicator>(std::move(mesh));
}

}  // namespace axial::parallel
