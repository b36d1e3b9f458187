// SPDX-License-Identifier: Apache-2.0
// What crosses the borders of stages; called by the loop of step_run.cpp.
#include <utility>

#include "axial/parallel/step/accumulate.h"
#include "axial/parallel/step/step_run.h"

namespace axial::parallel {

// Over the border of a stage: what later stages read goes on, and their gradients come back.
void StepRun::transfer(const Action& action, const BlockRange& range) {
  const bool grads = action.kind == ActionKind::kSendGrad || action.kind == ActionKind::kRecvGrad;
  const bool sends = action.kind == ActionKind::kSend || action.kind == ActionKind::kSendGrad;
  const bool before = action.kind == ActionKind::kRecv || action.kind == ActionKind::kSendGrad;
  const int64_t border = before ? range.begin : range.end;
  const int64_t here = s_.stages.rank_of_block(range.begin);
  const int64_t peer = (here + (before ? s_.stages.ranks - 1 : 1)) % s_.stages.ranks;
  const int64_t channel = border_channel(s_.stages.of_block(border), grads);
  MicroBatch& state = states_[static_cast<size_t>(action.micro_batch)];
  std::vector<at::Tensor*> tensors;
  for (const int64_t v : versions_across(s_.stream, border)) {
    const auto at = static_cast<size_t>(v);
    if (!grads) tensors.push_back(&state.values[at]);
    if (grads && s_.stream.values[at].needs_gradient) tensors.push_back(&state.grads[at]);
  }
  if (sends) {
    std::vector<at::Tensor> sent;
    for (at::Tensor* tensor : tensors) sent.push_back(*tensor);
    link_.send(sent, peer, channel, messages_in_flight(s_.plan, action));
    // A gradient is complete here: whoever wrote the tensor gets it from the stages in between.
    for (at::Tensor* tensor : tensors) {
      if (grads) tensor->reset();
    }
    return;
  }
  std::vector<at::Tensor> got = link_.receive(tensors.size(), peer, channel, device());
  if (grads) link_.finish_oldest(peer, channel - 1);  // what they are the gradients of has arrived
  for (size_t i = 0; i < got.size(); ++i) {
    if (grads && got[i].defined()) accumulate(*tensors[i], std::move(got[i]));
    if (!grads) *tensors[i] = std::move(got[i]);
  }
}

}  // namespace axial::parallel
