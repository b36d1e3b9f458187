// SPDX-License-Identifier: Apache-2.0
// Both are autograd functions whose other half runs on the peer.
#include "axial/parallel/collectives/point_to_point.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>
#include <vector>

#include "axial/ops/common/kernel_call.h"

namespace axial::parallel {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where a transfer goes.
struct Peer : torch::CustomClassHolder {
  Peer(int64_t place, Communicator& ranks, Axes axes) : place(place), ranks(ranks), axes(std::move(axes)) {}

  // All lines between the two: both ends name the same ones, whoever sends.
  void connect(at::Device device) const {
    const int64_t me = ranks.mesh().group_rank(axes, ranks.mesh().rank());
    std::vector<Line> lines;
    for (const int64_t channel : {kSendChannel, kSendGradChannel}) {
      lines.push_back({me, place, channel});
      lines.push_back({place, me, channel});
    }
    ranks.connect(lines, axes, device);
    if (!device.is_cpu()) ranks.connect(lines, axes, at::kCPU);
  }
  // Whether what follows needs a gradient: the receiver must know whether one is waited for.
  void tell(bool needs_gradient) const {
    const at::Tensor flag = at::full({1}, needs_gradient ? 1 : 0, at::kByte);
    ranks.start_send(flag, place, axes, {kSendChannel, true}).wait();
  }
  bool hear() const {
    const at::Tensor flag = at::empty({1}, at::kByte);
    ranks.start_recv(flag, place, axes, {kSendChannel, true}).wait();
    return flag.item<uint8_t>() != 0;
  }
  void send(const at::Tensor& x, int64_t channel) const {
    ranks.start_send(x, place, axes, {channel}).wait();
  }
  void receive(const at::Tensor& into, int64_t channel) const {
    ranks.start_recv(into, place, axes, {channel}).wait();
  }

  int64_t place;
  Communicator& ranks;
  Axes axes;
};

void keep_peer(AutogradContext* context, const c10::intrusive_ptr<Peer>& peer) {
  context->saved_data["peer"] = at::IValue::make_capsule(peer);
}

c10::intrusive_ptr<Peer> peer_of(AutogradContext* context) {
  return c10::dynamic_intrusive_pointer_cast<Peer>(context->saved_data["peer"].toCapsule());
}

struct Send : torch::autograd::Function<Send> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<Peer>& peer) {
    keep_peer(context, peer);
    context->saved_data["shape"] = x.sizes().vec();
    peer->send(x, kSendChannel);
    return at::empty({0}, x.options());
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    ops::refuse_second_order("send_to", grads);
    const std::vector<int64_t> shape = context->saved_data["shape"].toIntVector();
    const at::Tensor grad = at::empty(shape, grads[0].options());
    peer_of(context)->receive(grad, kSendGradChannel);
    return {grad, at::Tensor()};
  }
};

struct Receive : torch::autograd::Function<Receive> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& anchor,
                            const c10::intrusive_ptr<Peer>& peer, at::IntArrayRef shape) {
    keep_peer(context, peer);
    const at::Tensor x = at::empty(shape, anchor.options().requires_grad(false));
    peer->receive(x, kSendChannel);
    return x;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    ops::refuse_second_order("receive_from", grads);
    peer_of(context)->send(grads[0], kSendGradChannel);
    return {at::empty({0}, grads[0].options()), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor send_to(const at::Tensor& x, int64_t peer, Communicator& ranks, const Axes& axes) {
  const auto other = c10::make_intrusive<Peer>(peer, ranks, axes);
  other->connect(x.device());
  other->tell(x.requires_grad() && at::GradMode::is_enabled());
  return Send::apply(x, other);
}

at::Tensor receive_from(int64_t peer, at::IntArrayRef shape, const at::TensorOptions& options,
                        Communicator& ranks, const Axes& axes) {
  const auto other = c10::make_intrusive<Peer>(peer, ranks, axes);
  other->connect(options.device());
  // Something that requires a gradient, so that there is a backward.
  const at::Tensor anchor = at::empty({0}, options).set_requires_grad(other->hear());
  return Receive::apply(anchor, other, shape);
}

}  // namespace axial::parallel
