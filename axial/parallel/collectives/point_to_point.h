// SPDX-License-Identifier: Apache-2.0
// Sends and receives inside of a graph: what is sent forward brings its gradient back.
#pragma once

#include <ATen/core/Tensor.h>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

/// The channels that differentiable sends, their gradients, and shifts have to themselves.
inline constexpr int64_t kSendChannel = kChannels - 1;
inline constexpr int64_t kSendGradChannel = kChannels - 2;
inline constexpr int64_t kShiftChannel = kChannels - 3;

/// Send `x` to another rank of the group, by its place. Returns an empty tensor that stands for what the peer
/// does with `x`: add its sum() to what backward starts from, and backward waits there for the gradient of
/// `x`. Blocks until the peer receives. Where `x` needs no gradient none comes back. First order only. (The
/// delegate variables of ChainerMN, Akiba et al., 2017.)
at::Tensor send_to(const at::Tensor& x, int64_t peer, Communicator& ranks, const Axes& axes);

/// The tensor that this rank of the group sends: of this shape, dtype and device, which both ends know.
/// Backward sends its gradient; both ends go backward through their transfers in orders that match.
at::Tensor receive_from(int64_t peer, at::IntArrayRef shape, const at::TensorOptions& options,
                        Communicator& ranks, const Axes& axes);

}  // namespace axial::parallel
