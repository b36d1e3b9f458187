// SPDX-License-Identifier: Apache-2.0
// A thread that does jobs in their order. Used by offload_store.cpp for copies.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace axial::parallel::detail {

/// Starts its thread with the first job.
class Worker {
 public:
  using Ticket = int64_t;

  Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  /// Jobs that have not begun are dropped.
  ~Worker();

  /// Tickets ascend from 1.
  Ticket start(std::function<void()> job);
  /// Return when a job is done, and with it all before it; throws what the job threw, every time. 0 is done.
  void wait(Ticket ticket);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::map<Ticket, std::exception_ptr> errors_;
  Ticket started_ = 0, done_ = 0;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace axial::parallel::detail
