// SPDX-License-Identifier: Apache-2.0
// Rows -> pieces, and the ring of three sets of buffers.
#include "axial/optim/adamw/state_pieces.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "axial/core/check/check.h"

namespace axial::optim {

using parallel::Offloaded;
using parallel::Parameter;

StatePieces::StatePieces(parallel::ParameterTable& parameters) {
  bool has_master = false;
  at::ScalarType dtype = at::kFloat;
  int64_t most = 0, elements = 0;
  for (const auto& row : parameters.rows()) {
    if (!row->offloaded.contains("exp_avg")) continue;
    const at::ScalarType own = row->companion_dtype("exp_avg");
    if (pieces_.empty()) dtype = own;
    AXIAL_CHECK(own == dtype, "adamw", "states of '{}'; expected {} as those of the others, got {}",
                row->spec.name, c10::toString(dtype), c10::toString(own));
    has_master = has_master || row->offloaded.contains("master");
    add(*row, kBytes / static_cast<int64_t>(c10::elementSize(dtype)), elements);
  }
  for (const auto& piece : pieces_)
    most = std::max(most, piece.back().at + piece.back().end - piece.back().begin);
  for (size_t s = 0; s < std::min(kSets, pieces_.size()); ++s) {
    for (size_t k = 0; k < kNames.size(); ++k) {
      if (k < 2 || has_master) sets_[s].buffers[k] = parameters.companion_store()->host_buffer(most, dtype);
    }
  }
}

// Into the last piece where it has room, else into pieces of its own.
void StatePieces::add(Parameter& row, int64_t limit, int64_t& elements) {
  const int64_t size = c10::multiply_integers(row.offloaded.at("exp_avg").sizes());
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

void StatePieces::start_reads(const std::vector<Span>& piece, Set& set) const {
  for (const Span& span : piece) {
    for (size_t k = 0; k < kNames.size(); ++k) {
      const auto found = span.row->offloaded.find(kNames[k]);
      if (found == span.row->offloaded.end()) continue;
      const at::Tensor part = set.buffers[k].narrow(0, span.at, span.end - span.begin);
      set.reads.emplace_back(&found->second, found->second.start_read(part, span.begin));
    }
  }
}

void StatePieces::start_writes(const std::vector<Span>& piece, Set& set) const {
  for (const Span& span : piece) {
    for (size_t k = 0; k < kNames.size(); ++k) {
      const auto found = span.row->offloaded.find(kNames[k]);
      if (found == span.row->offloaded.end()) continue;
      const at::Tensor part = set.buffers[k].narrow(0, span.at, span.end - span.begin);
      set.writes.emplace_back(&found->second, found->second.start_write(part, span.begin));
    }
  }
}

StateSpan StatePieces::state_of(const Span& span, const Set& set) const {
  const auto part = [&](size_t k) { return set.buffers[k].narrow(0, span.at, span.end - span.begin); };
  const bool has_master = span.row->offloaded.contains("master");
  return {span.row, span.begin, span.end, has_master ? part(2) : at::Tensor(), part(0), part(1)};
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
    for (const Span& span : pieces[i]) spans.push_back(state_of(span, set));
    update(spans);
    start_writes(pieces[i], set);
  }
  for (Set& set : sets_) wait(set.writes);
}

}  // namespace axial::optim
