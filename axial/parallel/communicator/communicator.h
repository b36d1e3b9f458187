// SPDX-License-Identifier: Apache-2.0
// The one door to other ranks: collectives along mesh axes, checked, counted in bytes per axis and op, with
// errors that name rank, axis, op and culprit. Not differentiable: parallel/collectives is.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/parallel/communicator/transport.h"
#include "axial/parallel/mesh/mesh.h"

namespace axial::parallel {

class Watch;

/// What went over one group by one collective.
struct Traffic {
  int64_t calls = 0;
  int64_t bytes = 0;    ///< sent by this rank, as the usual algorithms send them
  int64_t padding = 0;  ///< of these, what only makes sizes even

  friend bool operator==(const Traffic&, const Traffic&) = default;
};

/// A collective that cannot complete; what() names op, axes, rank, and whom it waited for.
class CollectiveError : public Error {
 public:
  using Error::Error;
};

/// A collective under way.
class [[nodiscard]] Pending {
 public:
  Pending() = default;
  explicit Pending(std::function<at::Tensor()> finish) : finish_(std::move(finish)) {}
  /// The result, once; throws CollectiveError.
  at::Tensor wait() { return std::exchange(finish_, nullptr)(); }
  bool valid() const { return static_cast<bool>(finish_); }

 private:
  std::function<at::Tensor()> finish_;
};

/// Sizes of the ranks' pieces along a dim, where they are not equal.
using Sizes = std::vector<int64_t>;

/// A call, as ranks name it in errors and compare it.
struct CallInWords {
  const char* op = "";
  std::string details;       ///< what all ranks of the call have alike: dtype, shape, dim, sizes, root
  Sizes to_each, from_each;  ///< of an all_to_all: elements
  int64_t peer = -1;         ///< of a send or recv: place in the group
  int64_t channel = 0;       ///< of a send or recv
  bool compares = true;
};

/// Sends of one channel arrive in their order; channels do not wait for each other.
struct Channel {
  int64_t number = 0;
  bool control = false;  ///< carries no tensor of the caller: counted under "control"
};

/// Collectives of one rank. `axes` name the group in any order; all of its ranks make the same calls in the
/// same order. Groups of one rank are the identity. start_x returns at once, and x is start_x(..).wait().
/// Arguments are checked before any byte is sent (ValueError: unknown axis, dim, root or peer, sizes that do
/// not fit). 16-bit sums are made in fp32.
class Communicator {
 public:
  struct Options {
    /// Debug: ranks compare every call before it is made: its name, dtype, shape or sizes, dim, root, way to
    /// combine; of a send and its recv dtype and shape. A difference is an error that shows both. A recv then
    /// waits for its send at its start: start sends first.
    bool compare_calls = false;
  };

  /// A world of one rank.
  explicit Communicator(Mesh mesh);
  /// `watch` (may be null) explains failures; it is started and stopped by its owner's lifetime.
  Communicator(Mesh mesh, std::unique_ptr<Transport> transport, std::shared_ptr<Watch> watch,
               Options options);
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator();

  const Mesh& mesh() const { return mesh_; }

  /// Combine over the group; every rank gets the result. A new tensor; start_all_reduce_in_place works in
  /// place on a contiguous one, which must not be touched before the wait.
  Pending start_all_reduce(const at::Tensor& tensor, const Axes& axes, ReduceOp op);
  Pending start_all_reduce_in_place(at::Tensor tensor, const Axes& axes, ReduceOp op);
  at::Tensor all_reduce(const at::Tensor& tensor, const Axes& axes, ReduceOp op);

  /// Join the ranks' tensors along `dim`, in group order. `sizes`: how long each rank's is; none: all as
  /// here.
  Pending start_all_gather(const at::Tensor& tensor, int64_t dim, const Axes& axes, Sizes sizes = {});
  at::Tensor all_gather(const at::Tensor& tensor, int64_t dim, const Axes& axes, Sizes sizes = {});

  /// Combine over the group; this rank gets its piece along `dim`. No sizes: equal pieces.
  Pending start_reduce_scatter(const at::Tensor& tensor, int64_t dim, const Axes& axes, ReduceOp op,
                               Sizes sizes = {});
  at::Tensor reduce_scatter(const at::Tensor& tensor, int64_t dim, const Axes& axes, ReduceOp op,
                            Sizes sizes = {});
  /// Of equal pieces; the caller needs `tensor` no more, and no copy is made of a contiguous one along dim 0.
  Pending start_reduce_scatter_overwriting(const at::Tensor& tensor, int64_t dim, const Axes& axes,
                                           ReduceOp op);

  /// Cut along `split_dim` into pieces of `split_sizes`, exchange, join along `join_dim` what has
  /// `join_sizes` there. No sizes: equal pieces, and joined ones as long as here.
  Pending start_all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim, const Axes& axes,
                           Sizes split_sizes = {}, Sizes join_sizes = {});
  at::Tensor all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim, const Axes& axes,
                        Sizes split_sizes = {}, Sizes join_sizes = {});

  /// The tensor of the group's rank `root`; the others pass one of its shape and dtype.
  Pending start_broadcast(const at::Tensor& tensor, int64_t root, const Axes& axes);
  at::Tensor broadcast(const at::Tensor& tensor, int64_t root, const Axes& axes);
  /// Lines that sends and recvs of tensors of `device` will use; both ends of a line name it here first, in
  /// calls whose order is one for all ranks. Lines of others are passed over. Costs something once, and over
  /// NCCL alone: there a first send waits for its recv, so that ranks that all send first would hang.
  void connect(std::vector<Line> lines, const Axes& axes, at::Device device);
  /// To and from another rank of the group, by its place in it; recv fills a contiguous `into`.
  Pending start_send(const at::Tensor& tensor, int64_t peer, const Axes& axes, Channel channel = {});
  Pending start_recv(at::Tensor into, int64_t peer, const Axes& axes, Channel channel = {});
  void send(const at::Tensor& tensor, int64_t peer, const Axes& axes);
  void recv(at::Tensor& into, int64_t peer, const Axes& axes);
  /// Return when every rank of the group has come here; the wait of start_barrier gives no tensor.
  Pending start_barrier(const Axes& axes);
  void barrier(const Axes& axes);

  /// While it lives, calls carry no tensor of a model and are counted under "control".
  class ControlCalls {
   public:
    explicit ControlCalls(Communicator& ranks) : ranks_(ranks) { ++ranks_.control_; }
    ControlCalls(const ControlCalls&) = delete;
    ControlCalls& operator=(const ControlCalls&) = delete;
    ~ControlCalls() { --ranks_.control_; }

   private:
    Communicator& ranks_;
  };

  /// By ("data+ring", "all_reduce"): names of the axes in mesh order, then the collective. Calls that carry
  /// no tensor of a model (barriers, shapes of messages, what ranks agree on, sums of losses and norms) are
  /// under "control", comparisons under "compare".
  const std::map<std::pair<std::string, std::string>, Traffic>& traffic() const { return traffic_; }
  void clear_traffic() { traffic_.clear(); }

 private:
  const Group& group_of(const Axes& axes);
  void count(const char* op, const Group& group, int64_t bytes, int64_t padding = 0);
  Pending scatter(const at::Tensor& tensor, int64_t dim, const Group& group, ReduceOp op, Sizes sizes,
                  bool overwrites);
  // Debug: throws where ranks are about to do different things; the wait is for what a send says of itself.
  Wait compare(const CallInWords& call, const Group& group);
  void compare_with_all(const CallInWords& call, const Group& group);
  Wait compare_with_peer(const CallInWords& call, const Group& group);
  // Compare, note the call, start it; failures at the start or in the wait become CollectiveErrors.
  Pending launch(const CallInWords& call, const Group& group, const std::function<Wait()>& start,
                 std::function<at::Tensor()> finish);

  Mesh mesh_;
  std::shared_ptr<Watch> watch_;
  std::unique_ptr<Transport> transport_;
  Options options_;
  int64_t control_ = 0;                      // ControlCalls that live
  std::map<std::string, int64_t> sequence_;  // calls to other ranks, by group; sends and recvs by themselves
  std::map<std::string, Group> groups_;
  std::set<std::array<int64_t, 5>> connected_;  // kind of device, number of the group, from, to, channel
  std::map<std::pair<std::string, std::string>, Traffic> traffic_;
};

}  // namespace axial::parallel
