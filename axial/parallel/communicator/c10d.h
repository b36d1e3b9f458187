// SPDX-License-Identifier: Apache-2.0
// Transports over c10d's backends: one backend per group of ranks, made at the first call over it.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "axial/parallel/communicator/transport.h"

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace axial::parallel {

/// Makes the backend of a group; called by all of its ranks at once.
using BackendFactory = std::function<c10::intrusive_ptr<c10d::Backend>(const Group& group)>;

/// How tensors of one kind of device travel.
struct C10dBackends {
  BackendFactory make;  ///< empty: not at all
  /// Sends need a backend of their own for each line: where a send may wait for its recv (NCCL), those of
  /// another direction or channel must not queue up behind it.
  bool connects = false;
};

/// Gloo over TCP, host tensors. Ranks find each other through `store`; a call that takes longer than
/// `timeout` fails.
BackendFactory gloo_backends(c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout);

/// A process group that somebody else made: its own ranks, and groups split from it.
BackendFactory adopted_backends(c10::intrusive_ptr<c10d::Backend> world,
                                c10::intrusive_ptr<c10d::Store> store);

/// The keys under which a group's ranks meet in a store.
std::string meeting_place(const Group& group);

/// Tensors of the host, barriers and what ranks agree on go over `host`, all others over `device`. The host's
/// backend of `world`, all ranks, is made at once: all of them call it.
std::unique_ptr<Transport> make_c10d_transport(C10dBackends host, C10dBackends device, const Group& world);

}  // namespace axial::parallel
