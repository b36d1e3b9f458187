// SPDX-License-Identifier: Apache-2.0
// Debug: what ranks are about to do is said and compared before it is done. Called by Communicator::launch.
//
// A collective begins with an all-gather of one line per rank, text and the sizes of an all_to_all; a send
// with a message of that line ahead of it over the same channel.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "communicator";
constexpr int64_t kText = 256;

// Longer texts are told apart by a hash.
std::string text_of(const CallInWords& call, const char* op) {
  const std::string whole = fmt::format("{} {}", op, call.details);
  std::string text = whole;
  if (text.size() >= kText) {
    text = fmt::format("{}.. #{:016x}", whole.substr(0, kText - 32), std::hash<std::string>{}(whole));
  }
  text.resize(kText, '\0');
  return text;
}

// Of a line: its text, without what fills it up and what follows.
std::string shown(const std::string& line) { return line.substr(0, line.find('\0')); }

at::Tensor bytes_of(const std::string& text) {
  const at::Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<uint8_t>());
  return bytes;
}

std::string text_in(const at::Tensor& bytes) {
  return {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), static_cast<size_t>(bytes.numel())};
}

// Elements that go to or come from the rank at a place of the group; -1: the call has none.
struct Part {
  int64_t to = -1;
  int64_t from = -1;
};

Part part_in(const std::string& line, int64_t place) {
  Part part;
  std::memcpy(&part, line.data() + kText + place * static_cast<int64_t>(sizeof(Part)), sizeof(Part));
  return part;
}

std::string line_of(const CallInWords& call, const Group& group) {
  std::string line = text_of(call, call.op);
  for (size_t r = 0; r < group.ranks.size(); ++r) {
    const Part part = call.to_each.empty() ? Part{} : Part{call.to_each[r], call.from_each[r]};
    line.append(reinterpret_cast<const char*>(&part), sizeof(Part));
  }
  return line;
}

}  // namespace

Wait Communicator::compare(const CallInWords& call, const Group& group) {
  if (call.peer >= 0) return compare_with_peer(call, group);
  compare_with_all(call, group);
  return {};
}

void Communicator::compare_with_all(const CallInWords& call, const Group& group) {
  const std::string line = line_of(call, group);
  const at::Tensor mine = bytes_of(line);
  const at::Tensor all = at::empty({group.size(), mine.numel()}, at::kByte);
  count("compare", group, mine.numel() * (group.size() - 1));
  transport_->all_gather(all.view({-1}), mine, group)();
  const auto fail = [&](size_t other, const std::string& here, const std::string& there) {
    throw CollectiveError(
        fmt::format("[{}] call #{} over '{}' differs between ranks; rank {} makes {}, rank {} makes {}", kOp,
                    sequence_[group.name], group.name, mesh_.rank(), here, group.ranks[other], there));
  };
  for (int64_t r = 0; r < group.size(); ++r) {
    const auto place = static_cast<size_t>(r);
    const std::string other = text_in(all[r]);
    if (other.compare(0, kText, line, 0, kText) != 0) fail(place, shown(line), shown(other));
    const Part here = part_in(line, r), there = part_in(other, group.rank);
    if (here.to == there.from && here.from == there.to) continue;
    const auto say = [&](const Part& part, const std::string& text) {
      return fmt::format("{} with {} elements to the other and {} from it", shown(text), part.to, part.from);
    };
    fail(place, say(here, line), say(there, other));
  }
}

Wait Communicator::compare_with_peer(const CallInWords& call, const Group& group) {
  // Both ends say it as the sender does.
  const std::string line = text_of(call, "send");
  const at::Tensor bytes = bytes_of(line);
  if (std::strcmp(call.op, "send") == 0) {
    count("compare", group, kText);
    const Wait wait = transport_->send(bytes, call.peer, group, call.channel);
    return [wait, bytes] {
      if (wait) wait();
    };
  }
  count("compare", group, 0);
  if (const Wait wait = transport_->recv(bytes, call.peer, group, call.channel)) wait();
  const std::string theirs = text_in(bytes);
  AXIAL_CHECK(theirs == line, kOp, "message over '{}', channel {}; rank {} expects {}, rank {} makes {}",
              group.name, call.channel, mesh_.rank(), shown(line),
              group.ranks[static_cast<size_t>(call.peer)], shown(theirs));
  return {};
}

}  // namespace axial::parallel
