// SPDX-License-Identifier: Apache-2.0
// The one door to other ranks: collectives along mesh axes, counted in bytes per axis and op. This build
// has the communicator of a world of one; the runner, the trainer and clipping already go through it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "axial/parallel/mesh/mesh.h"

namespace axial::parallel {

/// How ranks' values are combined.
enum class ReduceOp { kSum, kMax };

/// What went over one group by one collective.
struct Traffic {
  int64_t calls = 0;
  int64_t bytes = 0;  ///< sent by this rank

  friend bool operator==(const Traffic&, const Traffic&) = default;
};

/// Collectives of one rank. `axes` name the group; all of its ranks must make the same calls in the same
/// order. Nothing here is differentiable: the runner calls it outside of autograd. Arguments are checked
/// before any byte is sent: ValueError for an unknown axis, a dim or root out of range, an indivisible dim.
class Communicator {
 public:
  explicit Communicator(Mesh mesh);
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const Mesh& mesh() const { return mesh_; }

  /// Combine over the group; every rank gets the result.
  at::Tensor all_reduce(const at::Tensor& tensor, const Axes& axes, ReduceOp op);
  /// Join the ranks' tensors along `dim`, in group order.
  at::Tensor all_gather(const at::Tensor& tensor, int64_t dim, const Axes& axes);
  /// Combine over the group; this rank gets its equal piece along `dim`.
  at::Tensor reduce_scatter(const at::Tensor& tensor, int64_t dim, const Axes& axes, ReduceOp op);
  /// Cut along `split_dim`, exchange, join along `join_dim`.
  at::Tensor all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim, const Axes& axes);
  /// The tensor of the group's rank `root`.
  at::Tensor broadcast(const at::Tensor& tensor, int64_t root, const Axes& axes);
  /// To and from another rank of the group, by its place in it; recv fills `into`.
  void send(const at::Tensor& tensor, int64_t peer, const Axes& axes);
  void recv(at::Tensor& into, int64_t peer, const Axes& axes);
  /// Return when every rank of the group has come here.
  void barrier(const Axes& axes);

  /// By ("data+ring", "all_reduce"): names of the axes joined, then the collective.
  const std::map<std::pair<std::string, std::string>, Traffic>& traffic() const { return traffic_; }

 protected:
  /// The group of a call, resolved.
  struct Group {
    const Axes& axes;
    int64_t size = 1;
    int64_t rank = 0;
  };
  virtual at::Tensor do_all_reduce(const at::Tensor& tensor, const Group& group, ReduceOp op) = 0;
  virtual at::Tensor do_all_gather(const at::Tensor& tensor, int64_t dim, const Group& group) = 0;
  virtual at::Tensor do_reduce_scatter(const at::Tensor& tensor, int64_t dim, const Group& group,
                                       ReduceOp op) = 0;
  virtual at::Tensor do_all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim,
                                   const Group& group) = 0;
  virtual at::Tensor do_broadcast(const at::Tensor& tensor, int64_t root, const Group& group) = 0;
  virtual void do_send(const at::Tensor& tensor, int64_t peer, const Group& group) = 0;
  virtual void do_recv(at::Tensor& into, int64_t peer, const Group& group) = 0;
  virtual void do_barrier(const Group& group) = 0;

 private:
  Group group_of(const Axes& axes) const;
  void count(const char* op, const Group& group, int64_t bytes);

  Mesh mesh_;
  std::map<std::pair<std::string, std::string>, Traffic> traffic_;
};

/// The communicator of this mesh; throws UnsupportedError for more than one rank.
std::unique_ptr<Communicator> make_communicator(Mesh mesh);

}  // namespace axial::parallel
