// SPDX-License-Identifier: Apache-2.0
// Who is to blame when a collective cannot complete: every rank shows signs of life and its place in the
// store; whoever fails first leaves the reason there, and all others quote it.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace c10d {
class Store;
}

namespace axial::parallel {

/// Of one rank; a thread of its own posts every timeout / 30, at least every second. Thread-safe.
class Watch {
 public:
  /// Takes connections of its own to the store. `host`: who has it, "rank 0", for when it does not answer.
  Watch(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank, int64_t world_size,
        std::chrono::milliseconds timeout, std::string host);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  /// Says goodbye: this rank has ended.
  ~Watch();

  /// This rank is in `call` ("all_reduce #17 over 'data'"), or out of it again.
  void enter(const std::string& call);
  void leave();

  /// Return when the key is in the store; throws CollectiveError when a failure was posted meanwhile, or rank
  /// `by`, which is to set it, gives no sign of life for 30 intervals.
  void wait_for(const std::string& key, int64_t by);

  /// Leave the reason why this rank stops, unless another was first. For errors other than CollectiveError.
  void post_failure(const std::string& reason);

  /// After `call` with these ranks failed with `what`: whose fault it is. Reads what was posted; else looks
  /// for ranks without a sign of life, then for ranks that are elsewhere, and posts what it finds; a store
  /// that does not answer is its host's fault. Takes a few intervals.
  std::string explain(const std::string& call, const std::vector<int64_t>& ranks, const std::string& what);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Leave `reason` in the store for all ranks to quote, unless another was there first.
void post_culprit(c10d::Store& store, const std::string& reason);

}  // namespace axial::parallel
