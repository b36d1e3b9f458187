// SPDX-License-Identifier: Apache-2.0
// How bytes reach other ranks: flat, contiguous buffers over a group. The communicator checks, cuts, counts
// and explains; a transport only moves. c10d.cpp has Gloo, NCCL and adopted groups; recording.h has none.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace axial::parallel {

/// How ranks' values are combined.
enum class ReduceOp { kSum, kMax };

/// The ranks of a call.
struct Group {
  std::string name;            ///< axes joined by '+', in mesh order
  std::vector<int64_t> ranks;  ///< global ranks, ascending in mesh order
  int64_t rank = 0;            ///< place of this one
  int64_t number = 0;          ///< of its axes, of [0, kGroups): bit i for axis i of the mesh

  int64_t size() const { return static_cast<int64_t>(ranks.size()); }
};

/// Sets of axes, and channels of sends between two ranks along one set.
inline constexpr int64_t kGroups = 1 << 10;
inline constexpr int64_t kChannels = 1 << 10;

/// A way for sends from one rank of a group to another, by their places in it.
struct Line {
  int64_t from = 0;
  int64_t to = 0;
  int64_t channel = 0;
};

/// Blocks until a call is done, or throws. Empty: done already.
using Wait = std::function<void()>;

/// Every call is made by all ranks of its group in the same order. Buffers are contiguous, are held until
/// the wait is over, and may be read or written only then. Any exception means that the group is lost.
class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  /// In place.
  virtual Wait all_reduce(const at::Tensor& buffer, const Group& group, ReduceOp op) = 0;
  /// out [n * size] = the groups' in [n], in order.
  virtual Wait all_gather(const at::Tensor& out, const at::Tensor& in, const Group& group) = 0;
  /// out [n] = this rank's piece of the combined in [n * size]; `in` may be overwritten.
  virtual Wait reduce_scatter(const at::Tensor& out, const at::Tensor& in, const Group& group,
                              ReduceOp op) = 0;
  /// Elements in[sum(in_sizes[:r]) ..] go to rank r, out[sum(out_sizes[:r]) ..] come from it.
  virtual Wait all_to_all(const at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_sizes,
                          std::vector<int64_t> in_sizes, const Group& group) = 0;
  /// In place, from the group's rank `root`.
  virtual Wait broadcast(const at::Tensor& buffer, int64_t root, const Group& group) = 0;
  /// By place in the group. Calls between two ranks over one channel, of [0, kChannels), match in their
  /// order. The other ranks of the group need not take part.
  virtual Wait send(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) = 0;
  virtual Wait recv(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) = 0;
  virtual Wait barrier(const Group& group) = 0;
  /// Whether lines of tensors of this device need their two ends together, in connect(), before a first send.
  virtual bool connects(at::Device /*device*/) const { return false; }
  /// Connect a line that begins or ends here; blocks until the other end does the same.
  virtual void connect(const Line& /*line*/, const Group& /*group*/, at::Device /*device*/) {}
  /// Whether 16-bit sums must be widened by the caller to be made in fp32.
  virtual bool sums_in_own_dtype() const { return true; }
};

}  // namespace axial::parallel
