// SPDX-License-Identifier: Apache-2.0
// Keys of the store: axial/beat/<rank> = "<count>|<where>", axial/culprit = the first reason posted.
#include "axial/parallel/communicator/watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

namespace {

using std::chrono::milliseconds;

constexpr const char* kCulprit = "axial/culprit";
constexpr const char* kEnded = "ended";
constexpr const char* kNeverSeen = "|never seen";

std::string beat_key(int64_t rank) { return fmt::format("axial/beat/{}", rank); }

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

// The first line, without the place in the source that c10 puts before it.
std::string brief(const std::string& what) {
  std::string line = what.substr(0, what.find('\n'));
  const size_t end = line.find("] ");
  if (line.starts_with("[/") && end != std::string::npos) line = line.substr(end + 2);
  return line;
}

}  // namespace

class Watch::Impl {
 public:
  Impl(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank, int64_t world_size, milliseconds timeout,
       std::string host)
      : beats_(store->clone()),
        reads_(store->clone()),
        rank_(rank),
        world_size_(world_size),
        interval_(std::clamp(timeout / 30, milliseconds(50), milliseconds(1000))),
        patience_(std::clamp(timeout, milliseconds(3000), milliseconds(10000))),
        host_(std::move(host)) {
    beats_->setTimeout(timeout);
    reads_->setTimeout(patience_);
    beat();
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      where_ = kEnded;
    }
    wake_.notify_all();
    thread_.join();
  }

  void set(std::string where) {
    const std::lock_guard lock(mutex_);
    where_ = std::move(where);
  }

  std::string where() {
    const std::lock_guard lock(mutex_);
    return where_;
  }

  void post(const std::string& reason) {
    try {
      ask<bool>([store = reads_, reason] {
        post_culprit(*store, reason);
        return true;
      });
    } catch (const std::exception&) {
      // The store is gone with the rank that hosts it; there is nobody left to tell.
    }
  }

  void wait_for(const std::string& key, int64_t by) {
    std::string why;
    try {
      why = lost_while_waiting(key, by);
    } catch (const std::exception&) {
      why = host_fault();
    }
    if (!why.empty()) {
      throw CollectiveError(fmt::format("[watch] rank {} waits for rank {}: {}", rank_, by, why));
    }
  }

  std::string explain(const std::string& call, const std::vector<int64_t>& ranks, const std::string& what) {
    try {
      if (const auto posted = culprit()) return *posted;
      const std::vector<std::string> before = read_beats();
      for (int i = 0; i < 5; ++i) {
        std::this_thread::sleep_for(interval_);
        if (const auto posted = culprit()) return *posted;
      }
      std::this_thread::sleep_for(milliseconds(1500));  // a busy machine may starve a living rank for a while
      const std::string reason = judge(call, ranks, before, read_beats(), what);
      post(reason);
      return culprit().value_or(reason);
    } catch (const std::exception&) {
      return fmt::format("{} ({})", host_fault(), brief(what));
    }
  }

 private:
  // Returns when the key is there, "", or cannot come any more: why.
  std::string lost_while_waiting(const std::string& key, int64_t by) {
    std::string last;
    int silent = 0;
    while (!ask<bool>([store = reads_, key] { return store->check({key}); })) {
      if (const auto posted = culprit()) return *posted;
      const std::string beat = read_beats()[static_cast<size_t>(by)];
      silent = beat == last ? silent + 1 : 0;
      last = beat;
      if (silent > 30) return "no sign of life";
      std::this_thread::sleep_for(interval_);
    }
    return "";
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      wake_.wait_for(lock, interval_, [this] { return stop_; });
      lock.unlock();
      const bool reached = beat();
      lock.lock();
      if (!reached) return;
    }
    lock.unlock();
    beat();  // that this rank has ended
  }

  bool beat() {
    std::string text;
    {
      const std::lock_guard lock(mutex_);
      text = fmt::format("{}|{}", ++count_, where_);
    }
    try {
      beats_->set(beat_key(rank_), bytes(text));
      return true;
    } catch (const std::exception&) {
      return false;  // the store is gone; collectives will tell
    }
  }

  // What a call to the store gives. A host that is stopped answers nothing, and the call would wait for ever:
  // then its thread is left behind, with the connection, and nothing is asked again.
  template <class T>
  T ask(std::function<T()> call) {
    if (silent_) throw Error("the store does not answer");
    std::packaged_task<T()> task(std::move(call));
    std::future<T> answer = task.get_future();
    std::thread asker(std::move(task));
    if (answer.wait_for(patience_) == std::future_status::ready) {
      asker.join();
      return answer.get();
    }
    asker.detach();
    silent_ = true;
    throw Error("the store does not answer");
  }

  std::string host_fault() const {
    return silent_ ? fmt::format("{} gives no sign of life: the store that it hosts does not answer", host_)
                   : fmt::format("{} is gone, and with it the store that it hosts", host_);
  }

  static std::string get(c10d::Store& store, const std::string& key, const std::string& otherwise) {
    if (!store.check({key})) return otherwise;
    const std::vector<uint8_t> text = store.get(key);
    return {text.begin(), text.end()};
  }

  std::optional<std::string> culprit() {
    const auto text = ask<std::string>([store = reads_] { return get(*store, kCulprit, ""); });
    if (text.empty()) return std::nullopt;
    return text;
  }

  std::vector<std::string> read_beats() {
    return ask<std::vector<std::string>>([store = reads_, size = world_size_] {
      std::vector<std::string> all;
      for (int64_t r = 0; r < size; ++r) all.push_back(get(*store, beat_key(r), kNeverSeen));
      return all;
    });
  }

  std::string judge(const std::string& call, const std::vector<int64_t>& ranks,
                    const std::vector<std::string>& before, const std::vector<std::string>& after,
                    const std::string& what) const {
    const auto place = [&](int64_t r) {
      const std::string& text = after[static_cast<size_t>(r)];
      return text.substr(text.find('|') + 1);
    };
    // Of the whole world: the one that this rank waits for may itself wait for the one that is gone.
    for (int64_t r = 0; r < world_size_; ++r) {
      if (r == rank_ || before[static_cast<size_t>(r)] != after[static_cast<size_t>(r)]) continue;
      if (after[static_cast<size_t>(r)] == kNeverSeen) {
        return fmt::format("rank {} was never seen: it has not started, or does not reach the store", r);
      }
      if (place(r) == kEnded) return fmt::format("rank {} has ended already, without this call", r);
      return fmt::format("rank {} gives no sign of life; last seen {}", r, place(r));
    }
    for (const int64_t r : ranks) {
      if (r == rank_ || place(r) == "in " + call || place(r) == "after " + call) continue;
      return fmt::format("rank {} did not come; it was {}", r, place(r));
    }
    return brief(what);
  }

  c10::intrusive_ptr<c10d::Store> beats_, reads_;  // a connection each: a call on one may block
  int64_t rank_, world_size_;
  milliseconds interval_, patience_;
  std::string host_;
  std::atomic<bool> silent_ = false;  // the store did not answer: reads_ is lost
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  int64_t count_ = 0;
  std::string where_ = "before its first collective";
  std::thread thread_;
};

void post_culprit(c10d::Store& store, const std::string& reason) {
  store.compareSet(kCulprit, bytes(""), bytes(reason));
}

Watch::Watch(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank, int64_t world_size,
             milliseconds timeout, std::string host)
    : impl_(std::make_unique<Impl>(store, rank, world_size, timeout, std::move(host))) {}

Watch::~Watch() = default;

void Watch::enter(const std::string& call) { impl_->set("in " + call); }

void Watch::leave() {
  std::string where = impl_->where();
  if (where.starts_with("in ")) impl_->set("after " + where.substr(3));
}

void Watch::wait_for(const std::string& key, int64_t by) { impl_->wait_for(key, by); }

void Watch::post_failure(const std::string& reason) { impl_->post(reason); }

std::string Watch::explain(const std::string& call, const std::vector<int64_t>& ranks,
                           const std::string& what) {
  return impl_->explain(call, ranks, what);
}

}  // namespace axial::parallel
