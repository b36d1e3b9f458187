// SPDX-License-Identifier: Apache-2.0
// Calls the backends' virtual methods, not the dispatcher's ops: those take no Meta tensors and cost more.
#include "axial/parallel/communicator/c10d.h"

#define USE_C10D_GLOO  // NOLINT(readability-identifier-naming): torch asks for it
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <array>
#include <chrono>
#include <map>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <tuple>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

c10d::ReduceOp reduce_op(ReduceOp op) {
  return op == ReduceOp::kSum ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX;
}

// Gloo's thread lets go of a call a moment after it has said that it is done, and of its tensors with it:
// what a step holds would depend on that moment.
void wait_until_let_go(const c10::intrusive_ptr<c10d::Work>& work) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  while (work.use_count() > 1 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

Wait wait_for(c10::intrusive_ptr<c10d::Work> work, const at::Tensor& buffer) {
  return [work = std::move(work), on_host = buffer.is_cpu()] {
    work->wait();
    if (on_host) wait_until_let_go(work);
  };
}

// Newer versions of torch name three methods otherwise.
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 14
constexpr auto kAllGather = &c10d::Backend::all_gather_single;
constexpr auto kReduceScatter = &c10d::Backend::reduce_scatter_single;
constexpr auto kAllToAll = &c10d::Backend::all_to_all_single;
#else
constexpr auto kAllGather = &c10d::Backend::_allgather_base;
constexpr auto kReduceScatter = &c10d::Backend::_reduce_scatter_base;
constexpr auto kAllToAll = &c10d::Backend::alltoall_base;
#endif

// The backends of one kind of device: one per group of ranks, and where sends need it one per line.
class Backends {
 public:
  explicit Backends(C10dBackends options) : options_(std::move(options)) {}
  Backends(const Backends&) = delete;
  Backends& operator=(const Backends&) = delete;
  ~Backends() {
    // Those that connect hold a device, which must not be gone before them.
    if (!options_.connects) return;
    for (auto& [ranks, backend] : groups_) backend->shutdown();
    for (auto& [line, backend] : lines_) backend->shutdown();
  }

  bool connects() const { return options_.connects; }
  explicit operator bool() const { return options_.make != nullptr; }

  c10d::Backend& of(const Group& group) {
    auto& made = groups_[group.ranks];
    if (!made) made = options_.make(group);
    return *made;
  }

  void connect(const Line& line, const Group& group, at::Device device) {
    const bool sends = line.from == group.rank;
    const int64_t from = global(line.from, group), to = global(line.to, group);
    const Group pair{fmt::format("{}:{}", group.name, line.channel), {from, to}, sends ? 0 : 1, group.number};
    const auto backend = options_.make(pair);
    std::vector<at::Tensor> first{at::zeros({1}, at::TensorOptions(device))};
    (sends ? backend->send(first, 1, 0) : backend->recv(first, 0, 0))->wait();
    lines_[{from, to, group.number, line.channel}] = backend;
  }

  Wait send(std::vector<at::Tensor> tensors, const Line& line, const Group& group, const Group& world) {
    const int64_t to = global(line.to, group);
    if (options_.connects) return wait_for(at(line, group).send(tensors, 1, 0), tensors[0]);
    return wait_for(of(world).send(tensors, static_cast<int>(to), next_tag(true, to, group, line.channel)),
                    tensors[0]);
  }

  Wait recv(std::vector<at::Tensor> tensors, const Line& line, const Group& group, const Group& world) {
    const int64_t from = global(line.from, group);
    if (options_.connects) return wait_for(at(line, group).recv(tensors, 0, 0), tensors[0]);
    return wait_for(
        of(world).recv(tensors, static_cast<int>(from), next_tag(false, from, group, line.channel)),
        tensors[0]);
  }

 private:
  static int64_t global(int64_t place, const Group& group) { return group.ranks[static_cast<size_t>(place)]; }

  c10d::Backend& at(const Line& line, const Group& group) {
    const auto found =
        lines_.find({global(line.from, group), global(line.to, group), group.number, line.channel});
    AXIAL_CHECK(found != lines_.end(), "communicator",
                "send from place {} to {} over channel {}; expected connect() on both ranks before",
                line.from, line.to, line.channel);
    return *found->second;
  }

  // Both ends count alike, so several transfers between two ranks may be under way at once.
  int next_tag(bool sends, int64_t other, const Group& group, int64_t channel) {
    constexpr int64_t kTags = (int64_t{1} << 31) / (kGroups * kChannels);  // of a channel
    const int64_t line = group.number * kChannels + channel;
    int64_t& tag = tags_[{sends, other, line}];
    tag = (tag + 1) % kTags;
    return static_cast<int>(line * kTags + tag);
  }

  using Backend = c10::intrusive_ptr<c10d::Backend>;
  C10dBackends options_;
  std::map<std::vector<int64_t>, Backend> groups_;
  std::map<std::array<int64_t, 4>, Backend> lines_;  // from, to, number of the group, channel
  std::map<std::tuple<bool, int64_t, int64_t>, int64_t> tags_;
};

class C10dTransport final : public Transport {
 public:
  C10dTransport(C10dBackends host, C10dBackends device, Group world)
      : world_(std::move(world)), host_(std::move(host)), device_(std::move(device)) {
    host_.of(world_);
  }

  Wait all_reduce(const at::Tensor& buffer, const Group& group, ReduceOp op) override {
    std::vector<at::Tensor> tensors{buffer};
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(op);
    return wait_for(over(buffer).of(group).allreduce(tensors, options), buffer);
  }

  Wait all_gather(const at::Tensor& out, const at::Tensor& in, const Group& group) override {
    at::Tensor output = out, input = in;
    return wait_for((over(in).of(group).*kAllGather)(output, input, {}), in);
  }

  Wait reduce_scatter(const at::Tensor& out, const at::Tensor& in, const Group& group, ReduceOp op) override {
    if (in.is_cpu()) {  // Gloo's own sums a copy of it: this one may be overwritten
      return [out, in, wait = all_reduce(in, group, op), place = group.rank] {
        wait();
        out.copy_(in.narrow(0, place * out.numel(), out.numel()));
      };
    }
    at::Tensor output = out, input = in;
    c10d::ReduceScatterOptions options;
    options.reduceOp = reduce_op(op);
    return wait_for((over(in).of(group).*kReduceScatter)(output, input, options), in);
  }

  Wait all_to_all(const at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_sizes,
                  std::vector<int64_t> in_sizes, const Group& group) override {
    at::Tensor output = out, input = in;
    return wait_for((over(in).of(group).*kAllToAll)(output, input, out_sizes, in_sizes, {}), in);
  }

  Wait broadcast(const at::Tensor& buffer, int64_t root, const Group& group) override {
    std::vector<at::Tensor> tensors{buffer};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return wait_for(over(buffer).of(group).broadcast(tensors, options), buffer);
  }

  // Without lines over the world's backend: one for the group would have to be made by all of its ranks at
  // this moment.
  Wait send(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) override {
    return over(buffer).send({buffer}, {group.rank, peer, channel}, group, world_);
  }

  Wait recv(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) override {
    return over(buffer).recv({buffer}, {peer, group.rank, channel}, group, world_);
  }

  Wait barrier(const Group& group) override {
    return [work = host_.of(group).barrier()] { work->wait(); };
  }

  bool connects(at::Device device) const override {
    return device.is_cpu() ? host_.connects() : device_.connects();
  }

  void connect(const Line& line, const Group& group, at::Device device) override {
    over(device).connect(line, group, device);
  }

 private:
  Backends& over(const at::Tensor& buffer) { return over(buffer.device()); }
  Backends& over(at::Device device) {
    if (!device.is_cpu() && !device_) {
      fail<UnsupportedError>("communicator", "tensor on {}; expected the host: no device that NCCL can use",
                             device.str());
    }
    return device.is_cpu() ? host_ : device_;
  }

  Group world_;
  Backends host_, device_;
};

}  // namespace

std::string meeting_place(const Group& group) {
  return fmt::format("axial/group/{}/{}", group.name, fmt::join(group.ranks, ","));
}

BackendFactory gloo_backends(c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout) {
  return [store = std::move(store), timeout](const Group& group) -> c10::intrusive_ptr<c10d::Backend> {
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(meeting_place(group), store);
    return c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, static_cast<int>(group.rank),
                                                       static_cast<int>(group.size()), options);
  };
}

BackendFactory adopted_backends(c10::intrusive_ptr<c10d::Backend> world,
                                c10::intrusive_ptr<c10d::Store> store) {
  return [world = std::move(world), store = std::move(store)](const Group& group) {
    if (group.size() == world->getSize()) return world;
    const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(meeting_place(group), store);
    c10::intrusive_ptr<c10d::Backend> part =
        world->split(prefixed, {group.ranks.begin(), group.ranks.end()}, world->getBackendOptions());
    AXIAL_CHECK(part, "communicator", "splitting ranks {} from an adopted group of {} gave nothing",
                fmt::join(group.ranks, ", "), world->getBackendName());
    return part;
  };
}

std::unique_ptr<Transport> make_c10d_transport(C10dBackends host, C10dBackends device, const Group& world) {
  return std::make_unique<C10dTransport>(std::move(host), std::move(device), world);
}

}  // namespace axial::parallel
