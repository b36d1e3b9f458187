// SPDX-License-Identifier: Apache-2.0
// Reads and writes by io_uring (Axboe, 2019), as many at once as the ring has places.
#include <liburing.h>

#include <cerrno>
#include <vector>

#include "axial/parallel/offload/file_queue.h"

namespace axial::parallel::detail {

namespace {

class UringQueue final : public FileQueue {
 public:
  UringQueue(int descriptor, size_t depth) : fd_(descriptor), calls_(depth) {}
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;
  // The kernel ends what is under way before the ring is gone.
  ~UringQueue() override {
    if (is_open_) io_uring_queue_exit(&ring_);
  }

  bool open() {
    is_open_ = io_uring_queue_init(static_cast<unsigned>(calls_.size()), &ring_, 0) == 0;
    return is_open_;
  }

  void start(size_t index, bool writes, int64_t offset, std::byte* data, int64_t bytes) override {
    calls_[index] = {writes, offset, data, bytes, {}, false};
    submit(index);
  }

  Transferred wait(size_t index) override {
    while (!calls_[index].ended) {
      io_uring_cqe* cqe = nullptr;
      const int failed = io_uring_wait_cqe(&ring_, &cqe);
      if (failed == -EINTR) continue;
      if (failed < 0) return {calls_[index].done.bytes, -failed};
      const auto which = static_cast<size_t>(io_uring_cqe_get_data64(cqe));
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      take(which, result);
    }
    return calls_[index].done;
  }
  const char* name() const override { return "io_uring"; }

 private:
  struct Call {
    bool writes = false;
    int64_t offset = 0;
    std::byte* data = nullptr;
    int64_t bytes = 0;
    Transferred done;
    bool ended = false;
  };

  void submit(size_t index) {
    Call& call = calls_[index];
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);  // there is one per call
    const auto left = static_cast<unsigned>(call.bytes - call.done.bytes);
    const auto at = static_cast<uint64_t>(call.offset + call.done.bytes);
    if (call.writes) {
      io_uring_prep_write(sqe, fd_, call.data + call.done.bytes, left, at);
    } else {
      io_uring_prep_read(sqe, fd_, call.data + call.done.bytes, left, at);
    }
    io_uring_sqe_set_data64(sqe, index);
    int sent = 0;
    do {
      sent = io_uring_submit(&ring_);
    } while (sent == -EINTR || sent == -EAGAIN);
    if (sent < 0) end(call, -sent);
  }

  void take(size_t index, int result) {
    Call& call = calls_[index];
    if (result == -EINTR || result == -EAGAIN) return submit(index);
    if (result < 0) return end(call, -result);
    call.done.bytes += result;
    if (result == 0 || call.done.bytes == call.bytes) return end(call, 0);
    submit(index);  // the rest
  }

  static void end(Call& call, int error) {
    call.done.error = error;
    call.ended = true;
  }

  int fd_;
  bool is_open_ = false;
  io_uring ring_{};
  std::vector<Call> calls_;
};

}  // namespace

std::unique_ptr<FileQueue> make_uring_queue(int descriptor, size_t depth) {
  auto queue = std::make_unique<UringQueue>(descriptor, depth);
  if (!queue->open()) return nullptr;
  return queue;
}

}  // namespace axial::parallel::detail
