// SPDX-License-Identifier: Apache-2.0
// Groups, counts, and what becomes of a call that fails. The calls: calls.cpp; their comparison: compare.cpp.
#include "axial/parallel/communicator/communicator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/communicator/watch.h"

namespace axial::parallel {

namespace {
constexpr const char* kOp = "communicator";
}  // namespace

Communicator::Communicator(Mesh mesh) : mesh_(std::move(mesh)) {
  AXIAL_CHECK(mesh_.world_size() == 1, kOp, "a communicator without transport; expected one rank, got {}",
              mesh_.world_size());
}

Communicator::Communicator(Mesh mesh, std::unique_ptr<Transport> transport, std::shared_ptr<Watch> watch,
                           Options options)
    : mesh_(std::move(mesh)), watch_(std::move(watch)), transport_(std::move(transport)), options_(options) {
  AXIAL_CHECK(transport_ != nullptr, kOp, "transport; expected one, got none");
  AXIAL_CHECK(int64_t{1} << mesh_.axes().size() <= kGroups, kOp,
              "axes of the mesh; expected at most 10, got {}", mesh_.axes().size());
}

Communicator::~Communicator() = default;

const Group& Communicator::group_of(const Axes& axes) {
  mesh_.group_size(axes);  // refuses unknown and repeated names
  std::string name;
  int64_t number = 0;
  for (size_t i = 0; i < mesh_.axes().size(); ++i) {
    const std::string& axis = mesh_.axes()[i].name;
    if (std::find(axes.begin(), axes.end(), axis) == axes.end()) continue;
    name += (name.empty() ? "" : "+") + axis;
    number += int64_t{1} << i;
  }
  auto found = groups_.find(name);
  if (found == groups_.end()) {
    Group group{name, mesh_.group(axes, mesh_.rank()), mesh_.group_rank(axes, mesh_.rank()), number};
    found = groups_.emplace(std::move(name), std::move(group)).first;
  }
  return found->second;
}

void Communicator::count(const char* op, const Group& group, int64_t bytes, int64_t padding) {
  const bool is_control = control_ > 0 && std::strcmp(op, "compare") != 0;
  Traffic& traffic = traffic_[{group.name, is_control ? "control" : op}];
  traffic.calls += 1;
  traffic.bytes += bytes;
  traffic.padding += padding;
}

Pending Communicator::launch(const CallInWords& in_words, const Group& group,
                             const std::function<Wait()>& start, std::function<at::Tensor()> finish) {
  const auto [op, peer, channel] = std::tuple(in_words.op, in_words.peer, in_words.channel);
  const int64_t number =
      ++sequence_[peer < 0 ? group.name : fmt::format("{}:{}:{}:{}", group.name, op, peer, channel)];
  std::string call = fmt::format("{} #{} over '{}'", op, number, group.name);
  std::vector<int64_t> ranks = group.ranks;
  if (peer >= 0) {
    ranks = {group.ranks[static_cast<size_t>(peer)]};
    call += fmt::format(" with rank {}", ranks[0]);
    if (channel > 0) call += fmt::format(" over channel {}", channel);
  }
  // Runs `part` of the call; what goes wrong in it is explained by whoever watches the world.
  const auto guarded = [call, ranks, watch = watch_, rank = mesh_.rank()](const auto& part) {
    if (watch) watch->enter(call);
    try {
      part();
    } catch (const Error&) {  // of this rank's own call; or explained already
      throw;
    } catch (const std::exception& error) {
      const std::string why = watch ? watch->explain(call, ranks, error.what()) : error.what();
      throw CollectiveError(fmt::format("[{}] {} at rank {} cannot complete: {}", kOp, call, rank, why));
    }
    if (watch) watch->leave();
  };
  Wait said, wait;
  guarded([&] {
    if (options_.compare_calls && in_words.compares) said = compare(in_words, group);
    const ops::MemoryPause pause;  // what a transport takes for itself is no tensor of a step
    wait = start();
  });
  return Pending([guarded, said = std::move(said), wait = std::move(wait), finish = std::move(finish)] {
    if (said) guarded(said);
    if (wait) guarded(wait);
    return finish();
  });
}

void Communicator::connect(std::vector<Line> lines, const Axes& axes, at::Device device) {
  const Group& group = group_of(axes);
  if (group.size() == 1 || !transport_->connects(device)) return;
  std::erase_if(lines, [&](const Line& line) {
    return line.from == line.to || (line.from != group.rank && line.to != group.rank);
  });
  // One order for all ranks, so that none of them wait for each other in a circle.
  const auto key = [](const Line& line) { return std::array{line.from, line.to, line.channel}; };
  std::sort(lines.begin(), lines.end(), [&](const Line& a, const Line& b) { return key(a) < key(b); });
  for (const Line& line : lines) {
    const auto kind = static_cast<int64_t>(device.type());
    if (!connected_.insert({kind, group.number, line.from, line.to, line.channel}).second) continue;
    const int64_t peer = line.from == group.rank ? line.to : line.from;
    const auto start = [&] {
      transport_->connect(line, group, device);
      return Wait();
    };
    CallInWords call{.op = "connect"};
    call.peer = peer;
    call.channel = line.channel;
    call.compares = false;  // it is made so that they can be
    launch(call, group, start, [] { return at::Tensor(); }).wait();
  }
}

}  // namespace axial::parallel
