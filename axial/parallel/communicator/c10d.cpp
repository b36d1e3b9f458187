// SPDX-License-Identifier: Apache-2.0
// Calls the backends' virtual methods, not the dispatcher's ops: those take no Meta tensors and cost more.
#include "axial/parallel/communicator/c10d.h"

#define USE_C10D_GLOO  // NOLINT(readability-identifier-naming): torch asks for it
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <map>
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

Wait wait_for(c10::intrusive_ptr<c10d::Work> work) {
  return [work = std::move(work)] { work->wait(); };
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

class C10dTransport final : public Transport {
 public:
  C10dTransport(BackendFactory factory, const Group& world)
      : factory_(std::move(factory)), world_(factory_(world)) {
    backends_[world.ranks] = world_;
  }

  Wait all_reduce(const at::Tensor& buffer, const Group& group, ReduceOp op) override {
    std::vector<at::Tensor> tensors{buffer};
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(op);
    return wait_for(backend(group).allreduce(tensors, options));
  }

  Wait all_gather(const at::Tensor& out, const at::Tensor& in, const Group& group) override {
    at::Tensor output = out, input = in;
    return wait_for((backend(group).*kAllGather)(output, input, {}));
  }

  Wait reduce_scatter(const at::Tensor& out, const at::Tensor& in, const Group& group, ReduceOp op) override {
    at::Tensor output = out, input = in;
    c10d::ReduceScatterOptions options;
    options.reduceOp = reduce_op(op);
    return wait_for((backend(group).*kReduceScatter)(output, input, options));
  }

  Wait all_to_all(const at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_sizes,
                  std::vector<int64_t> in_sizes, const Group& group) override {
    at::Tensor output = out, input = in;
    return wait_for((backend(group).*kAllToAll)(output, input, out_sizes, in_sizes, {}));
  }

  Wait broadcast(const at::Tensor& buffer, int64_t root, const Group& group) override {
    std::vector<at::Tensor> tensors{buffer};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return wait_for(backend(group).broadcast(tensors, options));
  }

  // Over the world's backend: one for the group would have to be made by all of its ranks at this moment.
  Wait send(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) override {
    std::vector<at::Tensor> tensors{buffer};
    const int64_t to = group.ranks[static_cast<size_t>(peer)];
    return wait_for(world_->send(tensors, static_cast<int>(to), next_tag(true, to, group, channel)));
  }

  Wait recv(const at::Tensor& buffer, int64_t peer, const Group& group, int64_t channel) override {
    std::vector<at::Tensor> tensors{buffer};
    const int64_t from = group.ranks[static_cast<size_t>(peer)];
    return wait_for(world_->recv(tensors, static_cast<int>(from), next_tag(false, from, group, channel)));
  }

  Wait barrier(const Group& group) override { return wait_for(backend(group).barrier()); }

 private:
  c10d::Backend& backend(const Group& group) {
    auto& made = backends_[group.ranks];
    if (!made) made = factory_(group);
    return *made;
  }

  // Both ends count alike, so several transfers between two ranks may be under way at once.
  int next_tag(bool sends, int64_t other, const Group& group, int64_t channel) {
    constexpr int64_t kTags = (int64_t{1} << 31) / (kGroups * kChannels);  // of a channel
    const int64_t line = group.number * kChannels + channel;
    int64_t& tag = tags_[{sends, other, line}];
    tag = (tag + 1) % kTags;
    return static_cast<int>(line * kTags + tag);
  }

  BackendFactory factory_;
  std::map<std::vector<int64_t>, c10::intrusive_ptr<c10d::Backend>> backends_;
  c10::intrusive_ptr<c10d::Backend> world_;
  std::map<std::tuple<bool, int64_t, int64_t>, int64_t> tags_;
};

}  // namespace

BackendFactory gloo_backends(c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout) {
  return [store = std::move(store), timeout](const Group& group) -> c10::intrusive_ptr<c10d::Backend> {
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(
        fmt::format("axial/group/{}", fmt::join(group.ranks, ",")), store);
    return c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, static_cast<int>(group.rank),
                                                       static_cast<int>(group.size()), options);
  };
}

BackendFactory adopted_backends(c10::intrusive_ptr<c10d::Backend> world,
                                c10::intrusive_ptr<c10d::Store> store) {
  return [world = std::move(world), store = std::move(store)](const Group& group) {
    if (group.size() == world->getSize()) return world;
    const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(
        fmt::format("axial/group/{}", fmt::join(group.ranks, ",")), store);
    c10::intrusive_ptr<c10d::Backend> part =
        world->split(prefixed, {group.ranks.begin(), group.ranks.end()}, world->getBackendOptions());
    AXIAL_CHECK(part, "communicator", "splitting ranks {} from an adopted group of {} gave nothing",
                fmt::join(group.ranks, ", "), world->getBackendName());
    return part;
  };
}

std::unique_ptr<Transport> make_c10d_transport(BackendFactory factory, const Group& world) {
  return std::make_unique<C10dTransport>(std::move(factory), world);
}

}  // namespace axial::parallel
