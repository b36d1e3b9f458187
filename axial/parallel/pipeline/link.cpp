// SPDX-License-Identifier: Apache-2.0
// Shapes first, then bytes.
#include "axial/parallel/pipeline/link.h"

#include <ATen/ATen.h>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "pipe";
constexpr int64_t kMaxDims = 13;
constexpr int64_t kLine = kMaxDims + 3;  // number of tensors, dtype, dims (-1: undefined), sizes

at::Tensor shapes_of(const std::vector<at::Tensor>& tensors) {
  const auto count = static_cast<int64_t>(tensors.size());
  at::Tensor shapes = at::zeros({count, kLine}, at::kLong);
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& tensor = tensors[static_cast<size_t>(i)];
    int64_t* line = shapes.mutable_data_ptr<int64_t>() + i * kLine;
    line[0] = count;
    line[2] = -1;
    if (!tensor.defined()) continue;
    AXIAL_CHECK(tensor.dim() <= kMaxDims, kOp, "tensor between stages; expected at most {} dims, got {}",
                kMaxDims, tensor.dim());
    line[1] = static_cast<int64_t>(tensor.scalar_type());
    line[2] = tensor.dim();
    std::copy(tensor.sizes().begin(), tensor.sizes().end(), line + 3);
  }
  return shapes;
}

// Undefined for a tensor that is not there.
at::Tensor empty_of(const int64_t* line, at::Device device) {
  if (line[2] < 0) return {};
  const auto dtype = static_cast<at::ScalarType>(line[1]);
  return at::empty(at::IntArrayRef(line + 3, static_cast<size_t>(line[2])),
                   at::TensorOptions(dtype).device(device));
}

bool has_data(const at::Tensor& tensor) { return tensor.defined() && tensor.numel() > 0; }

}  // namespace

void StageLink::finish_oldest(int64_t peer, int64_t channel) {
  std::deque<Message>& queue = sent_[{peer, channel}];
  if (queue.empty()) return;
  for (Pending& part : queue.front()) part.wait();
  queue.pop_front();
}

void StageLink::send(const std::vector<at::Tensor>& tensors, int64_t peer, int64_t channel,
                     int64_t in_flight) {
  std::deque<Message>& queue = sent_[{peer, channel}];
  while (in_flight > 0 && static_cast<int64_t>(queue.size()) >= in_flight) finish_oldest(peer, channel);
  Message& message = queue.emplace_back();
  if (tensors.empty()) return;
  message.push_back(ranks_.start_send(shapes_of(tensors), peer, {kPipeAxis}, {channel, true}));
  for (const at::Tensor& tensor : tensors) {
    if (has_data(tensor)) message.push_back(ranks_.start_send(tensor, peer, {kPipeAxis}, {channel}));
  }
}

std::vector<at::Tensor> StageLink::receive(size_t count, int64_t peer, int64_t channel, at::Device device) {
  std::vector<at::Tensor> out(count);
  if (count == 0) return out;
  at::Tensor shapes = at::empty({static_cast<int64_t>(count), kLine}, at::kLong);
  ranks_.start_recv(shapes, peer, {kPipeAxis}, {channel, true}).wait();
  const int64_t* line = shapes.const_data_ptr<int64_t>();
  AXIAL_CHECK(line[0] == static_cast<int64_t>(count), kOp,
              "message over channel {}; expected {} tensors, got {}", channel, count, line[0]);
  for (at::Tensor& tensor : out) {
    tensor = empty_of(line, device);
    line += kLine;
    if (has_data(tensor)) ranks_.start_recv(tensor, peer, {kPipeAxis}, {channel}).wait();
  }
  return out;
}

void StageLink::finish() {
  for (auto& [line, queue] : sent_) {
    for (Message& message : queue) {
      for (Pending& part : message) part.wait();
    }
  }
  sent_.clear();
}

std::vector<Line> border_lines(const Stages& stages) {
  std::vector<Line> lines;
  for (int64_t s = 1; s < stages.size(); ++s) {
    const int64_t before = stages.rank_of(s - 1), here = stages.rank_of(s);
    if (before == here) continue;
    lines.push_back({before, here, border_channel(s, false)});
    lines.push_back({here, before, border_channel(s, true)});
  }
  return lines;
}

at::Tensor share_from(const at::Tensor& tensor, int64_t root, Communicator& ranks, at::Device device) {
  const bool mine = ranks.mesh().coordinate(kPipeAxis) == root;
  const at::Tensor shapes =
      ranks.broadcast(mine ? shapes_of({tensor}) : at::zeros({1, kLine}, at::kLong), root, {kPipeAxis});
  const at::Tensor out = mine ? tensor.contiguous() : empty_of(shapes.const_data_ptr<int64_t>(), device);
  return has_data(out) ? ranks.broadcast(out, root, {kPipeAxis}) : out;
}

}  // namespace axial::parallel
