// SPDX-License-Identifier: Apache-2.0
// Buffers: rank z's piece of one action is the concatenation of its chunks, each lengthened to the largest,
// so a gather gives [N, sum of chunks] and a reduce-scatter takes it.
#include "axial/parallel/replicas/replicas.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/pipeline/stages.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "replicas";

at::ScalarType gradient_dtype(const Parameter& parameter) {
  return parameter.value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Elements of the slices, before any flat interval.
int64_t sliced_size(const Parameter& parameter) {
  return c10::multiply_integers(parameter.holding.sliced_shape());
}

// `flat` [n] as N rows of `chunk`, the end filled with zeros.
at::Tensor in_rows(const at::Tensor& flat, int64_t rows, int64_t chunk) {
  if (flat.numel() == rows * chunk) return flat.view({rows, chunk});
  return at::constant_pad_nd(flat, {0, rows * chunk - flat.numel()}).view({rows, chunk});
}

}  // namespace

void partition_parameters(ParameterTable& parameters, const Mesh& mesh, int64_t zero_stage, bool alone_too) {
  AXIAL_CHECK(0 <= zero_stage && zero_stage <= 3, kOp, "ZeRO stage; expected one of [0, 3], got {}",
              zero_stage);
  for (const auto& row : parameters.rows()) {
    row->replica_axes = mesh.batch_axes();
    std::erase_if(row->replica_axes, [&](const std::string& axis) {
      return std::find(row->sharded_axes.begin(), row->sharded_axes.end(), axis) != row->sharded_axes.end();
    });
    for (const std::string& axis : row->partial_axes) row->replica_axes.push_back(axis);
    row->zero_stage = alone_too || mesh.group_size(row->replica_axes) > 1 ? zero_stage : 0;
    const int64_t size = sliced_size(*row);
    row->holding.flat_begin = 0;
    row->holding.flat_end = size;
    if (row->zero_stage == 0) continue;
    const int64_t parts = mesh.group_size(row->replica_axes);
    const int64_t chunk = (size + parts - 1) / parts;
    const int64_t part = mesh.group_rank(row->replica_axes, mesh.rank());
    row->holding.flat_begin = std::min(size, part * chunk);
    row->holding.flat_end = std::min(size, (part + 1) * chunk);
  }
}

Replicas::Replicas(ParameterTable& parameters, Communicator& ranks)
    : parameters_(parameters), ranks_(ranks) {}

int64_t Replicas::parts_of(const Parameter& parameter) const {
  return ranks_.mesh().group_size(parameter.replica_axes);
}

int64_t Replicas::chunk_of(const Parameter& parameter) const {
  const int64_t parts = parts_of(parameter);
  return (sliced_size(parameter) + parts - 1) / parts;
}

// Lists of equal axes, dtype and way; in order of their first parameter.
Replicas::Lists Replicas::by_partition(const std::vector<Parameter*>& parameters, bool reduced) const {
  Lists lists;
  const auto alike = [&](const Parameter& a, const Parameter& b) {
    return a.replica_axes == b.replica_axes && (a.zero_stage > 0) == (b.zero_stage > 0) &&
           (reduced ? gradient_dtype(a) == gradient_dtype(b)
                    : a.value.scalar_type() == b.value.scalar_type());
  };
  for (Parameter* p : parameters) {
    const auto found =
        std::find_if(lists.begin(), lists.end(), [&](const auto& list) { return alike(*list[0], *p); });
    if (found == lists.end()) {
      lists.push_back({p});
    } else {
      found->push_back(p);
    }
  }
  return lists;
}

Replicas::Transfer Replicas::start_gather(std::vector<Parameter*> parameters) {
  const ops::MemoryScope scope(ops::MemoryUse::kGathered);
  const bool alone = parts_of(*parameters[0]) == 1;
  std::vector<at::Tensor> pieces;
  for (Parameter* p : parameters) {
    at::Tensor part = away_.take(*p);
    pieces.push_back(alone ? std::move(part) : in_rows(part.reshape({-1}), 1, chunk_of(*p)));
  }
  if (alone) return {{}, std::move(parameters), false, std::move(pieces)};
  const at::Tensor piece = pieces.size() == 1 ? pieces[0] : at::cat(pieces, 1);
  return {ranks_.start_all_gather(piece, 0, parameters[0]->replica_axes), std::move(parameters), false, {}};
}

void Replicas::finish_gather(Transfer& transfer) {
  const ops::MemoryScope scope(ops::MemoryUse::kGathered);
  if (!transfer.own.empty()) {
    for (size_t i = 0; i < transfer.own.size(); ++i) {
      detail::take_storage(transfer.parameters[i]->value, transfer.own[i]);
    }
    return;
  }
  const at::Tensor all = transfer.pending.wait();  // [N, sum of chunks]
  int64_t at = 0;
  for (const Parameter* p : transfer.parameters) {
    if (p->zero_stage == 3) detail::set_storage(p->value, true);
    const int64_t chunk = chunk_of(*p), size = sliced_size(*p);
    const at::Tensor rows = all.narrow(1, at, chunk);
    at += chunk;
    // variable_data(): what a graph saved is filled again with equal values, not changed.
    const at::Tensor flat = p->value.variable_data().view({-1});
    const int64_t full = chunk == 0 ? 0 : size / chunk;
    if (full > 0) flat.narrow(0, 0, full * chunk).view({full, chunk}).copy_(rows.narrow(0, 0, full));
    if (size > full * chunk) {
      flat.narrow(0, full * chunk, size - full * chunk).copy_(rows[full].narrow(0, 0, size - full * chunk));
    }
  }
}

void Replicas::fetch(const std::vector<Parameter*>& wanted) {
  for (Parameter* p : wanted) {
    if (p->zero_stage == 3 && users_[p] == 0) away_.start(*p);
  }
}

void Replicas::gather(const std::vector<Parameter*>& wanted) {
  std::vector<Parameter*> missing;
  for (Parameter* p : wanted) {
    if (p->zero_stage == 3 && users_[p]++ == 0) missing.push_back(p);
  }
  for (auto& list : by_partition(missing, false)) gathers_.push_back(start_gather(std::move(list)));
}

void Replicas::wait(const std::vector<Parameter*>& wanted) {
  for (Parameter* p : wanted) {
    if (p->zero_stage != 3) continue;
    AXIAL_CHECK(users_[p] > 0, kOp, "values of '{}' are used; expected a gather before it", p->spec.name);
    finish_fetch_of(p);
  }
}

void Replicas::finish_fetch_of(const Parameter* parameter) {
  const auto found = std::find_if(gathers_.begin(), gathers_.end(), [&](const Transfer& t) {
    return std::find(t.parameters.begin(), t.parameters.end(), parameter) != t.parameters.end();
  });
  if (found == gathers_.end()) return;
  finish_gather(*found);
  gathers_.erase(found);
}

void Replicas::release(const std::vector<Parameter*>& wanted) {
  for (Parameter* p : wanted) {
    if (p->zero_stage != 3) continue;
    AXIAL_CHECK(users_[p] > 0, kOp, "values of '{}' are released; expected a gather before it", p->spec.name);
    if (--users_[p] > 0) continue;
    finish_fetch_of(p);
    detail::set_storage(p->value, false);
  }
}

Replicas::Transfer Replicas::start_reduce(std::vector<Parameter*> parameters) {
  const ops::MemoryScope scope(ops::MemoryUse::kCommunication);
  const bool scatter = parameters[0]->zero_stage > 0;
  std::vector<at::Tensor> rows;
  for (Parameter* p : parameters) {
    at::Tensor grad = std::exchange(p->local_grad, at::Tensor());
    if (!grad.defined()) {
      grad = at::zeros(p->holding.sliced_shape(), p->value.options().dtype(gradient_dtype(*p)));
    }
    rows.push_back(scatter ? in_rows(grad.view({-1}), parts_of(*p), chunk_of(*p)) : grad.view({-1}));
  }
  const Axes& axes = parameters[0]->replica_axes;
  if (scatter) {
    const at::Tensor buffer = rows.size() == 1 ? rows[0] : at::cat(rows, 1);
    rows.clear();
    return {ranks_.start_reduce_scatter_overwriting(buffer, 0, axes, ReduceOp::kSum),
            std::move(parameters),
            true,
            {}};
  }
  at::Tensor buffer = rows.size() == 1 ? rows[0] : at::cat(rows);
  rows.clear();
  return {ranks_.start_all_reduce_in_place(std::move(buffer), axes, ReduceOp::kSum),
          std::move(parameters),
          false,
          {}};
}

void Replicas::finish_reduce(Transfer& transfer) {
  const at::Tensor sum = transfer.pending.wait().view({-1});
  int64_t at = 0;
  for (Parameter* p : transfer.parameters) {
    const int64_t held = p->holding.flat_end - p->holding.flat_begin;
    const at::Tensor grad = sum.narrow(0, at, held).view(p->holding.held_shape());
    at += transfer.scattered ? chunk_of(*p) : held;
    detail::add_gradient(parameters_, *p, grad);
  }
}

void Replicas::reduce(const std::vector<Parameter*>& summed) {
  std::vector<Parameter*> together;
  for (Parameter* p : summed) {
    if (!p->value.requires_grad()) continue;
    if (parts_of(*p) > 1) {
      together.push_back(p);
    } else if (p->local_grad.defined()) {  // nobody to sum with
      detail::add_gradient(parameters_, *p, p->local_grad);
      p->local_grad.reset();
    }
  }
  // The sums before have had the time of a backward; their buffers make room for these.
  if (!together.empty()) wait_reduced();
  for (auto& list : by_partition(together, true)) reduces_.push_back(start_reduce(std::move(list)));
}

void Replicas::wait_reduced() {
  for (Transfer& transfer : reduces_) finish_reduce(transfer);
  reduces_.clear();
}

void Replicas::connect_ties() {
  std::vector<Line> lines;
  for (const auto& row : parameters_.rows()) {
    for (size_t k = 1; k < row->stage_ranks.size(); ++k) {
      lines.push_back({row->stage_ranks[k], row->stage_ranks[0], 0});
      lines.push_back({row->stage_ranks[0], row->stage_ranks[k], 0});
    }
  }
  if (!lines.empty()) ranks_.connect(std::move(lines), {kPipeAxis}, parameters_.rows()[0]->value.device());
}

// The first of a parameter's stages adds, the others send and get the sum.
void Replicas::tie() {
  wait_reduced();
  connect_ties();
  std::vector<Pending> sends;
  const auto each = [&](const auto& use) {
    for (const auto& row : parameters_.rows()) {
      const std::vector<int64_t>& holders = row->stage_ranks;
      const int64_t here = holders.size() > 1 ? ranks_.mesh().coordinate(kPipeAxis) : -1;
      if (std::find(holders.begin(), holders.end(), here) == holders.end()) continue;
      if (!row->value.requires_grad()) continue;
      if (!row->grad.defined()) {
        detail::set_gradient(
            parameters_, *row,
            at::zeros(row->holding.held_shape(), row->value.options().dtype(gradient_dtype(*row))));
      }
      if (row->grad.numel() > 0) use(*row, here);
    }
  };
  each([&](Parameter& p, int64_t here) {
    if (here != p.stage_ranks[0]) sends.push_back(ranks_.start_send(p.grad, p.stage_ranks[0], {kPipeAxis}));
  });
  each([&](Parameter& p, int64_t here) {
    if (here != p.stage_ranks[0]) return;
    for (size_t k = 1; k < p.stage_ranks.size(); ++k) {
      at::Tensor theirs = at::empty_like(p.grad);
      ranks_.recv(theirs, p.stage_ranks[k], {kPipeAxis});
      detail::set_gradient(parameters_, p, p.grad + theirs);
    }
    for (size_t k = 1; k < p.stage_ranks.size(); ++k) {
      sends.push_back(ranks_.start_send(p.grad, p.stage_ranks[k], {kPipeAxis}));
    }
  });
  each([&](Parameter& p, int64_t here) {
    if (here == p.stage_ranks[0]) return;
    at::Tensor sum = at::empty_like(p.grad);
    ranks_.recv(sum, p.stage_ranks[0], {kPipeAxis});
    detail::set_gradient(parameters_, p, sum);
  });
  for (Pending& send : sends) send.wait();
}

void Replicas::publish() {
  std::vector<Parameter*> updated;
  for (const auto& row : parameters_.rows()) {
    if (row->zero_stage == 1 || row->zero_stage == 2) updated.push_back(row.get());
  }
  for (auto& list : by_partition(updated, false)) {
    Transfer transfer = start_gather(std::move(list));
    finish_gather(transfer);
  }
}

}  // namespace axial::parallel
