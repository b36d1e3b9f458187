// SPDX-License-Identifier: Apache-2.0
// What crosses a border between stages: lists of tensors whose shapes the receiver does not know. The runner
// sends and receives through it.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

/// Sends along `pipe` without waiting, and receives. A message is one small tensor with shapes and dtypes,
/// counted as control traffic, and the tensors; undefined ones travel as such. Messages of one channel keep
/// their order.
class StageLink {
 public:
  /// At most `in_flight` messages of a channel are under way: one more waits for the oldest, and its memory
  /// is free. 0: any number.
  StageLink(Communicator& ranks, int64_t in_flight) : ranks_(ranks), in_flight_(in_flight) {}

  void send(const std::vector<at::Tensor>& tensors, int64_t peer, int64_t channel);
  /// As many tensors as were sent; throws ValueError when the sender brings another number.
  std::vector<at::Tensor> receive(size_t count, int64_t peer, int64_t channel, at::Device device);
  /// Return when all that was sent has arrived.
  void finish();

 private:
  using Message = std::vector<Pending>;

  Communicator& ranks_;
  int64_t in_flight_ = 0;
  std::map<std::pair<int64_t, int64_t>, std::deque<Message>> sent_;  // by peer and channel
};

/// The tensor of rank `root` along `pipe`; the others need not know its shape.
at::Tensor share_from(const at::Tensor& tensor, int64_t root, Communicator& ranks, at::Device device);

}  // namespace axial::parallel
