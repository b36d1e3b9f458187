// SPDX-License-Identifier: Apache-2.0
// The ranks along one axis in one process, a thread each, for a plan: messages over it arrive, host tensors
// with their contents, Meta ones without; every other call is recorded, as by recording.h. So do the stages
// of a pipeline learn the shapes of what comes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "axial/parallel/communicator/transport.h"

namespace axial::parallel {

/// What the transports of these ranks share; thread-safe.
class PlanPeers {
 public:
  /// `ranks` along `axis`, each of which runs in a thread of its own.
  PlanPeers(std::string axis, int64_t ranks);
  PlanPeers(const PlanPeers&) = delete;
  PlanPeers& operator=(const PlanPeers&) = delete;
  ~PlanPeers();

  /// Of one rank, which must not outlive this. Waits throw Error once a rank has stopped, and when all that
  /// are left wait for each other.
  std::unique_ptr<Transport> make_transport();
  /// A rank is done; with a reason: it failed, and so do the others.
  void leave(const std::string& failure = "");

 private:
  class State;
  class PeerTransport;
  std::unique_ptr<State> state_;
};

}  // namespace axial::parallel
