// SPDX-License-Identifier: Apache-2.0
// This process's place among its peers, how they find each other, and communicators between them. Made once
// by the program (from torchrun's variables) or a test (from a file); passed on, never global.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

/// Ranks of a run. Lives as long as the communicators made from it.
class World {
 public:
  struct Options {
    std::chrono::milliseconds timeout = std::chrono::minutes(10);  ///< of a collective, and of meeting
    bool compare_calls = false;  ///< AXIAL_COMPARE_CALLS=1 sets it too: Communicator::Options
    /// Sends of host tensors over lines that must be connected, as NCCL's are: for tests.
    bool connect_sends = false;
  };

  /// A process that joins a world of several ranks ignores SIGPIPE from then on, unless it handles it:
  /// writing to a rank that has died is an error, not the end.
  ///
  /// As torchrun and `--ranks` start a process: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
  /// MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE. One rank where RANK and WORLD_SIZE are not set. Throws
  /// ValueError naming the variable that is missing or no number, CollectiveError when the peers do not come.
  static World from_environment(Options options);
  /// Ranks of one machine that meet in a file on which nobody has met before.
  static World from_file(const std::filesystem::path& file, int64_t rank, int64_t size, Options options);

  World(World&&) noexcept;
  World& operator=(World&&) noexcept;
  ~World();

  int64_t rank() const;
  int64_t size() const;
  int64_t local_rank() const;  ///< place on this machine
  int64_t local_size() const;  ///< ranks on this machine
  /// Between the ranks of `mesh`, whose world size and rank must be these: Gloo, and NCCL for tensors of CUDA
  /// devices. All ranks make theirs in the same order.
  std::unique_ptr<Communicator> make_communicator(Mesh mesh) const;
  /// Run `work` on the first rank while the others wait, then on those: what the first finds out (a cache)
  /// the others read. There is no limit to how long it takes, only to silence. All ranks make the same calls.
  /// Throws CollectiveError on the others when the first rank fails.
  void first_alone(const std::function<void()>& work) const;
  /// Tell the others why this rank stops; for errors that did not come from a collective.
  void post_failure(const std::string& reason) const;

 private:
  struct State;
  explicit World(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Hosts the store of a run whose ranks are other processes of this machine: what `--ranks` does.
class StoreHost {
 public:
  StoreHost();
  StoreHost(const StoreHost&) = delete;
  StoreHost& operator=(const StoreHost&) = delete;
  ~StoreHost();
  uint16_t port() const;
  /// As World::post_failure: of a rank that could not do it itself.
  void post_failure(const std::string& reason);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace axial::parallel
