// SPDX-License-Identifier: Apache-2.0
#include "axial/train/checkpoint/pieces.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "axial/parallel/collectives/exchange.h"

namespace axial::train::detail {

namespace {

using nlohmann::json;
using parallel::Holding;

json to_json(const Holding& holding) {
  json slices = json::array();
  for (const parallel::Intervals& dim : holding.slices) {
    json intervals = json::array();
    for (const parallel::Interval& i : dim) intervals.push_back({i.begin, i.end});
    slices.push_back(std::move(intervals));
  }
  return {std::move(slices), holding.flat_begin, holding.flat_end};
}

Holding from_json(const json& j) {
  Holding holding;
  for (const json& dim : j.at(0)) {
    parallel::Intervals intervals;
    for (const json& i : dim) intervals.push_back({i.at(0).get<int64_t>(), i.at(1).get<int64_t>()});
    holding.slices.push_back(std::move(intervals));
  }
  holding.flat_begin = j.at(1).get<int64_t>();
  holding.flat_end = j.at(2).get<int64_t>();
  return holding;
}

int64_t size_of(const Holding& holding) { return holding.flat_end - holding.flat_begin; }

}  // namespace

at::Tensor Item::tensor() const {
  if (part != "value") return row->companion(part);
  return row->is_sharded() ? row->part() : row->value;
}

at::ScalarType Item::dtype() const {
  return part == "value" ? row->value.scalar_type() : row->companion_dtype(part);
}

// Below stage 3 every rank has all of the value's slices; companions are cut from stage 1 on.
Holding Item::holding() const {
  return part == "value" && !row->is_sharded() ? row->holding.without_flat() : row->holding;
}

parallel::Axes Item::axes() const {
  parallel::Axes axes = row->sharded_axes;
  if (row->zero_stage > 0 && (part != "value" || row->is_sharded())) {
    axes.insert(axes.end(), row->replica_axes.begin(), row->replica_axes.end());
  }
  return axes;
}

std::string Item::key() const { return part == "value" ? row->spec.name : part + "/" + row->spec.name; }

int64_t Item::bytes() const {
  return c10::multiply_integers(row->spec.shape) * static_cast<int64_t>(c10::elementSize(dtype()));
}

Pieces::Pieces(std::vector<Item> items, parallel::Communicator* ranks)
    : items_(std::move(items)), ranks_(ranks) {
  json mine = json::array();
  for (const Item& item : items_) mine.push_back(to_json(item.holding()));
  const auto axes = ranks_ == nullptr ? parallel::Axes{} : parallel::all_axes(ranks_->mesh());
  for (const std::string& text : parallel::exchange(mine.dump(), ranks_, axes)) {
    std::vector<Holding>& holdings = holdings_.emplace_back();
    for (const json& item : json::parse(text)) holdings.push_back(from_json(item));
  }
  check_complete();
}

void Pieces::check_complete() const {
  for (size_t i = 0; i < items_.size(); ++i) {
    const parallel::ParameterSpec& spec = items_[i].row->spec;
    int64_t held = 0;
    for (const int64_t r : holders(i, rank())) held += size_of(holdings_[static_cast<size_t>(r)][i]);
    AXIAL_CHECK(held >= c10::multiply_integers(spec.shape), "checkpoint",
                "parameter '{}' is held in part: {} of {} elements over its ranks", spec.name, held,
                c10::multiply_integers(spec.shape));
  }
}

int64_t Pieces::rank() const { return ranks_ == nullptr ? 0 : ranks_->mesh().rank(); }

// Ranks with pieces of the item that are of use to the group of rank `of`; each different piece once, its own
// first.
std::vector<int64_t> Pieces::holders(size_t item, int64_t of) const {
  if (ranks_ == nullptr) return {0};
  std::vector<int64_t> out;
  std::set<std::string> seen;
  std::vector<int64_t> group = ranks_->mesh().group(items_[item].axes(), of);
  std::stable_partition(group.begin(), group.end(), [&](int64_t r) { return r == of; });
  for (const int64_t r : group) {
    const Holding& holding = holdings_[static_cast<size_t>(r)][item];
    if (size_of(holding) > 0 && seen.insert(to_json(holding).dump()).second) out.push_back(r);
  }
  return out;
}

parallel::Pending Pieces::send(size_t item, int64_t writer) const {
  const std::vector<int64_t> from = holders(item, writer);
  if (writer == rank() || std::find(from.begin(), from.end(), rank()) == from.end()) return {};
  const parallel::Axes axes = items_[item].axes();
  return ranks_->start_send(items_[item].tensor().detach().to(at::kCPU),
                            ranks_->mesh().group_rank(axes, writer), axes);
}

at::Tensor Pieces::assemble(size_t item) const {
  const Item& it = items_[item];
  const at::Tensor own = it.tensor().detach();
  if (it.holding().is_whole(it.row->spec.shape)) return own.to(at::kCPU).contiguous();
  const parallel::Axes axes = it.axes();
  at::Tensor logical = at::empty(it.row->spec.shape, own.options().device(at::kCPU));
  for (const int64_t r : holders(item, rank())) {
    const Holding& holding = holdings_[static_cast<size_t>(r)][item];
    at::Tensor piece = own;
    if (r != rank()) {
      piece = at::empty(holding.held_shape(), own.options().device(at::kCPU));
      ranks_->recv(piece, ranks_->mesh().group_rank(axes, r), axes);
    }
    holding.write_into(logical, piece.to(at::kCPU));
  }
  return logical;
}

}  // namespace axial::train::detail
