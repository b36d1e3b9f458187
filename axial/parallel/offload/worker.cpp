// SPDX-License-Identifier: Apache-2.0
// The thread behind worker.h.
#include "axial/parallel/offload/worker.h"

#include <utility>

namespace axial::parallel::detail {

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    jobs_.clear();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Worker::Ticket Worker::start(std::function<void()> job) {
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  jobs_.push_back(std::move(job));
  changed_.notify_all();
  return ++started_;
}

void Worker::wait(Ticket ticket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ >= ticket; });
  const auto found = errors_.find(ticket);
  if (found != errors_.end()) std::rethrow_exception(found->second);
}

void Worker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ends_ || !jobs_.empty(); });
    if (ends_) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    std::exception_ptr error;
    try {
      job();
    } catch (...) {
      error = std::current_exception();
    }
    job = nullptr;
    lock.lock();
    ++done_;
    if (error) errors_[done_] = error;
    changed_.notify_all();
  }
}

}  // namespace axial::parallel::detail
