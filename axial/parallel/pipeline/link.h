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
#include "axial/parallel/pipeline/stages.h"

namespace axial::parallel {

/// Sends along `pipe` without waiting, and receives. A message is one small tensor with shapes and dtypes,
/// counted as control traffic, and the tensors; undefined ones travel as such. Messages of one channel keep
/// their order.
class StageLink {
 public:
  explicit StageLink(Communicator& ranks) : ranks_(ranks) {}

  /// Holds the tensors until they have arrived: at most `in_flight` messages of a channel, one more waits for
  /// the oldest. 0: any number.
  void send(const std::vector<at::Tensor>& tensors, int64_t peer, int64_t channel, int64_t in_flight);
  /// The oldest message of this channel has been answered: let go of it.
  void finish_oldest(int64_t peer, int64_t channel);
  /// As many tensors as the sender says; both know it from the blocks.
  std::vector<at::Tensor> receive(size_t count, int64_t peer, int64_t channel, at::Device device);
  /// Return when all that was sent has arrived.
  void finish();

 private:
  using Message = std::vector<Pending>;

  Communicator& ranks_;
  std::map<std::pair<int64_t, int64_t>, std::deque<Message>> sent_;  // by peer and channel
};

/// The channel of messages between a stage and the one before it, forward or of gradients.
inline int64_t border_channel(int64_t stage, bool grads) { return 2 * stage + (grads ? 1 : 0); }

/// The lines along `pipe` of all borders between stages of different ranks.
std::vector<Line> border_lines(const Stages& stages);

/// The tensor of rank `root` along `pipe`; the others need not know its shape.
at::Tensor share_from(const at::Tensor& tensor, int64_t root, Communicator& ranks, at::Device device);

}  // namespace axial::parallel
