// SPDX-License-Identifier: Apache-2.0
// Rows -> pieces, and the ring of three sets of buffers.
#include "axial/optim/adamw/state_pieces.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "axial/core/check/check.h"

namespace axial::optim {

using parallel::Offloaded;
using parallel::Parameter;

namespace {

constexpr const char* kStates[] = {"exp_avg", "exp_avg_sq", "master"};
constexpr size_t kMaster = 2, kValue = 3;

bool is_file(const parallel::OffloadStore* store) {
  return store != nullptr && store->options().to == parallel::OffloadTo::kFile;
}

bool has_master(const Parameter& row) {
  return row.companions.contains("master") || row.offloaded.contains("master");
}

}  // namespace

StatePieces::StatePieces(parallel::ParameterTable& parameters)
    : states_in_file_(is_file(parameters.companion_store())),
      values_in_file_(is_file(parameters.value_store())) {
  bool any_master = false;
  at::ScalarType dtype = at::kFloat;
  int64_t elements = 0;
  for (const auto& row : parameters.rows()) {
    if (!row->value.requires_grad()) continue;
    const at::ScalarType own = row->companion_dtype("exp_avg");
    if (pieces_.empty()) dtype = own;
    AXIAL_CHECK(own == dtype, "adamw", "states of '{}'; expected {} as those of the others, got {}",
                row->spec.name, c10::toString(dtype), c10::toString(own));
    any_master = any_master || has_master(*row);
    add(*row, kBytes / static_cast<int64_t>(c10::elementSize(dtype)), elements);
  }
  if (!pieces_.empty()) make_buffers(parameters, any_master);
}

void StatePieces::make_buffers(parallel::ParameterTable& parameters, bool any_master) {
  int64_t most = 0;
  for (const auto& piece : pieces_)
    most = std::max(most, piece.back().at + piece.back().end - piece.back().begin);
  const Parameter& row = *pieces_.front().front().row;
  for (size_t s = 0; s < std::min(kSets, pieces_.size()); ++s) {
    for (size_t k = 0; states_in_file_ && k < kValue; ++k) {
      if (k == kMaster && !any_master) continue;
      sets_[s].buffers[k] = parameters.companion_store()->host_buffer(most, row.companion_dtype("exp_avg"));
    }
    if (values_in_file_) {
      sets_[s].buffers[kValue] = parameters.value_store()->host_buffer(most, row.value.scalar_type());
    }
  }
}

// Null: it is not in a file.
Offloaded* StatePieces::in_file(Parameter& row, size_t name) const {
  if (name == kValue) return values_in_file_ && row.away.defined() ? &row.away : nullptr;
  const auto found = row.offloaded.find(kStates[name]);
  return states_in_file_ && found != row.offloaded.end() ? &found->second : nullptr;
}

// Into the last piece where it has room, else into pieces of its own.
void StatePieces::add(Parameter& row, int64_t limit, int64_t& elements) {
  const int64_t size = c10::multiply_integers(row.holding.held_shape());
  for (int64_t begin = 0; begin < size;) {
    const int64_t count = std::min(limit, size - begin);
    if (pieces_.empty() || elements + count > limit) {
      pieces_.emplace_back();
      elements = 0;
    }
    pieces_.back().push_back({&row, begin, begin + count, elements});
    elements += count;
    begin += count;
  }
}

std::vector<std::vector<StatePieces::Span>> StatePieces::with_gradients() const {
  std::vector<std::vector<Span>> out;
  for (const auto& piece : pieces_) {
    std::vector<Span> spans;
    for (const Span& span : piece) {
      if (span.row->grad.defined()) spans.push_back(span);
    }
    if (!spans.empty()) out.push_back(std::move(spans));
  }
  return out;
}

void StatePieces::wait(Tickets& tickets) {
  for (const auto& [tensor, ticket] : tickets) tensor->wait(ticket);
  tickets.clear();
}

// A value beside a master copy is only written.
void StatePieces::start_reads(const std::vector<Span>& piece, Set& set) const {
  for (const Span& span : piece) {
    for (size_t k = 0; k < kNames; ++k) {
      Offloaded* stored = in_file(*span.row, k);
      if (stored == nullptr || (k == kValue && has_master(*span.row))) continue;
      const at::Tensor part = set.buffers[k].narrow(0, span.at, span.end - span.begin);
      set.reads.emplace_back(stored, stored->start_read(part, span.begin));
    }
  }
}

void StatePieces::start_writes(const std::vector<Span>& piece, Set& set) const {
  for (const Span& span : piece) {
    for (size_t k = 0; k < kNames; ++k) {
      Offloaded* stored = in_file(*span.row, k);
      if (stored == nullptr) continue;
      const at::Tensor part = set.buffers[k].narrow(0, span.at, span.end - span.begin);
      set.writes.emplace_back(stored, stored->start_write(part, span.begin));
    }
  }
}

StateSpan StatePieces::state_of(const Span& span, const Set& set) const {
  const auto part = [&](size_t k) {
    const int64_t count = span.end - span.begin;
    if (in_file(*span.row, k) != nullptr) return set.buffers[k].narrow(0, span.at, count);
    const at::Tensor all = k == kValue ? span.row->part() : span.row->companion(kStates[k]);
    return all.view({-1}).narrow(0, span.begin, count);
  };
  return {span.row, span.begin, span.end, part(kValue), has_master(*span.row) ? part(kMaster) : at::Tensor(),
          part(0),  part(1)};
}

void StatePieces::for_each(const std::function<void(const std::vector<StateSpan>&)>& update) {
  const std::vector<std::vector<Span>> pieces = with_gradients();
  const auto set_of = [&](size_t i) -> Set& { return sets_[i % kSets]; };
  for (Set& set : sets_) {  // of a step that ended in an error
    set.reads.clear();
    set.writes.clear();
  }
  if (!pieces.empty()) start_reads(pieces[0], set_of(0));
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i + 1 < pieces.size()) {
      wait(set_of(i + 1).writes);
      start_reads(pieces[i + 1], set_of(i + 1));
    }
    Set& set = set_of(i);
    wait(set.reads);
    std::vector<StateSpan> spans;
    for (const Span& span : pieces[i]) {
      if (!span.row->value.is_meta()) spans.push_back(state_of(span, set));
    }
    update(spans);
    start_writes(pieces[i], set);
  }
  for (Set& set : sets_) wait(set.writes);
}

}  // namespace axial::optim
