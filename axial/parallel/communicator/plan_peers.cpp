// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/communicator/plan_peers.h"

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/communicator/recording.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "plan";
constexpr int64_t kBroadcast = -1;  // a channel of its own

}  // namespace

class PlanPeers::State {
 public:
  using Line = std::tuple<int64_t, int64_t, int64_t>;  // from, to, channel
  // No tensor: what is under way counts for nobody.
  struct Message {
    std::vector<int64_t> sizes;
    at::ScalarType dtype;
    std::string bytes;  // of a host tensor
  };
  const std::string axis;

  State(std::string axis, int64_t ranks) : axis(std::move(axis)), running_(ranks) {}

  void put(const Line& line, const at::Tensor& tensor) {
    Message message{tensor.sizes().vec(), tensor.scalar_type(), {}};
    if (tensor.is_cpu()) {
      message.bytes.assign(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
    }
    const std::lock_guard lock(mutex_);
    messages_[line].push_back(std::move(message));
    arrived_.notify_all();
  }

  Message take(const Line& line) {
    std::unique_lock lock(mutex_);
    std::deque<Message>& queue = messages_[line];
    ++waiting_;
    const auto wanted = wanted_.insert(line);
    const auto done = [&] {
      --waiting_;
      wanted_.erase(wanted);
    };
    while (queue.empty()) {
      if (is_lost()) {
        done();
        arrived_.notify_all();
        fail(kOp, "a rank of '{}' stopped: {}", axis, failure_);
      }
      arrived_.wait(lock);
    }
    done();
    Message message = std::move(queue.front());
    queue.pop_front();
    return message;
  }

  void leave(const std::string& failure) {
    const std::lock_guard lock(mutex_);
    --running_;
    if (failure_.empty()) failure_ = failure;
    arrived_.notify_all();
  }

 private:
  // Somebody failed, or all that are left wait for what nobody has sent.
  bool is_lost() {
    if (failure_.empty() && waiting_ >= running_ &&
        std::all_of(wanted_.begin(), wanted_.end(),
                    [&](const Line& line) { return messages_[line].empty(); })) {
      failure_ = "every rank waits for a message of another";
    }
    return !failure_.empty();
  }

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<Line, std::deque<Message>> messages_;
  std::multiset<Line> wanted_;
  int64_t running_, waiting_ = 0;
  std::string failure_;
};

class PlanPeers::PeerTransport final : public Transport {
 public:
  explicit PeerTransport(State& state) : state_(state), rest_(make_recording_transport()) {}

  Wait all_reduce(const at::Tensor& buffer, const Group& group, ReduceOp op) override {
    return rest_->all_reduce(buffer, group, op);
  }
  Wait all_gather(const at::Tensor& out, const at::Tensor& in, const Group& group) override {
    return rest_->all_gather(out, in, group);
  }
  Wait reduce_scatter(const at::Tensor& out, const at::Tensor& in, const Group& group, ReduceOp op) override {
    return rest_->reduce_scatter(out, in, group, op);
  }
  Wait all_to_all(const at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_sizes,
                  std::vector<int64_t> in_sizes, const Group& group) override {
    return rest_->all_to_all(out, in, std::move(out_sizes), std::move(in_sizes), group);
  }
  Wait broadcast(const at::Tensor& buffer, int64_t root, const Group& group) override {
    if (group.name != state_.axis) return rest_->broadcast(buffer, root, group);
    if (root != group.rank) return receive(buffer, {root, group.rank, kBroadcast});
    for (int64_t to = 0; to < group.size(); ++to) {
      if (to != root) state_.put({root, to, kBroadcast}, buffer);
    }
    return {};
  }
  Wait send(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) override {
    if (group.name != state_.axis) return rest_->send(buffer, peer, group, channel);
    state_.put({group.rank, peer, channel}, buffer);
    return {};
  }
  Wait recv(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) override {
    if (group.name != state_.axis) return rest_->recv(buffer, peer, group, channel);
    return receive(buffer, {peer, group.rank, channel});
  }
  Wait barrier(const Group& group) override { return rest_->barrier(group); }

 private:
  Wait receive(at::Tensor buffer, State::Line line) {
    return [this, buffer = std::move(buffer), line] {
      const State::Message message = state_.take(line);
      AXIAL_CHECK(c10::multiply_integers(message.sizes) == buffer.numel() &&
                      message.dtype == buffer.scalar_type() &&
                      (buffer.numel() == 0 || message.bytes.empty() == buffer.is_meta()),
                  kOp, "message over channel {}; expected [{}] {}, got [{}] {}", std::get<2>(line),
                  fmt::join(buffer.sizes(), ", "), c10::toString(buffer.scalar_type()),
                  fmt::join(message.sizes, ", "), c10::toString(message.dtype));
      std::copy(message.bytes.begin(), message.bytes.end(), static_cast<char*>(buffer.mutable_data_ptr()));
    };
  }

  State& state_;
  std::unique_ptr<Transport> rest_;
};

PlanPeers::PlanPeers(std::string axis, int64_t ranks)
    : state_(std::make_unique<State>(std::move(axis), ranks)) {}

PlanPeers::~PlanPeers() = default;

std::unique_ptr<Transport> PlanPeers::make_transport() { return std::make_unique<PeerTransport>(*state_); }

void PlanPeers::leave(const std::string& failure) { state_->leave(failure); }

}  // namespace axial::parallel
