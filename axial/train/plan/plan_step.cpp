// SPDX-License-Identifier: Apache-2.0
// Ranks -> roles -> one run per role, stages side by side.
#include "axial/train/plan/plan_step.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <set>
#include <thread>
#include <tuple>

#include "axial/core/check/check.h"
#include "axial/models/common/parallelize.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/communicator/plan_peers.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/pipeline/stages.h"
#include "axial/parallel/replicas/replicas.h"
#include "axial/parallel/tensor/stream.h"
#include "axial/train/infer/embed.h"
#include "axial/train/infer/score.h"

namespace axial::train {

namespace {

using parallel::Mesh;
using parallel::SequenceLayout;

models::Model model_of(const StepToPlan& what, const Mesh& mesh) {
  models::Model model = what.build();
  parallel::MeshOptions options = what.parallel;
  // Regions save what only training keeps.
  const bool trains = what.work == PlannedWork::kTraining;
  if (!trains) options.sequence_regions = false;
  models::parallelize(model, *what.registry, mesh, options,
                      trains ? what.train.sharded_row_length(what.row_length) : 0);
  return model;
}

// Sizes of all that a rank holds: ranks with equal ones run equal steps. `parameters` as cut for its place
// along the axes that cut the model.
std::vector<int64_t> role_of(const StepToPlan& what, const Mesh& mesh, models::Model& model) {
  parallel::ParameterTable& parameters = *model.parameters;
  const bool trains = what.work == PlannedWork::kTraining;
  const auto layout = SequenceLayout::over(mesh, tokens_of_rows(what, model));
  std::vector<int64_t> role{
      parallel::pipe_degree(mesh) > 1 ? mesh.coordinate(parallel::kPipeAxis) : 0, layout.local_length(),
      layout.ring().local_size(layout.ring_rank()),
      static_cast<int64_t>(
          layout.dim()
              .owned(layout.dim().num_ranks() == 1 ? 0 : mesh.group_rank(mesh.sequence_axes(), mesh.rank()))
              .size())};
  const int64_t tensor = mesh.degree(parallel::kTensorAxis);
  if (trains && what.parallel.sequence_regions && tensor > 1) {  // the stream is cut once more
    role.push_back(parallel::even_sizes(layout.local_length(),
                                        tensor)[static_cast<size_t>(mesh.coordinate(parallel::kTensorAxis))]);
  }
  if (trains) {
    for (const parallel::Interval& rows : micro_batches_of(what.train, mesh, 0)) role.push_back(rows.size());
  }
  parallel::partition_parameters(parameters, mesh, what.parallel.zero);
  for (const auto& row : parameters.rows()) {
    for (const int64_t size : row->holding.sliced_shape()) role.push_back(size);
    role.push_back(row->holding.flat_end - row->holding.flat_begin);
  }
  return role;
}

data::Batch planned_rows(const StepToPlan& what, const SequenceLayout& layout,
                         const parallel::Interval& rows) {
  if (what.rows) {
    data::Batch batch = what.rows(layout, rows.begin, rows.size());
    for (auto& [name, tensor] : batch.tensors) tensor = tensor.to(at::kMeta);
    return batch;
  }
  data::Batch batch;
  batch.tensors = layout.describe_batch(rows.size());
  batch.num_tokens = rows.size() * what.row_length;
  batch.weight = static_cast<double>(batch.num_tokens);
  return batch;
}

// "attention backward" of "autograd::engine::evaluate_function: torch::autograd::CppNode<..::Attention>".
std::string op_name(const std::string* name) {
  if (name == nullptr) return "";
  constexpr std::string_view kEvaluate = "autograd::engine::evaluate_function: ";
  if (!name->starts_with(kEvaluate)) return *name;
  std::string node = name->substr(kEvaluate.size());
  node = node.substr(node.rfind("::") == std::string::npos ? 0 : node.rfind("::") + 2);
  while (!node.empty() && node.back() == '>') node.pop_back();
  return node + " backward";
}

// What lived after the allocation of the peak.
std::vector<AliveAtPeak> alive_at(const std::vector<ops::MemoryEvent>& events, int64_t peak_allocation) {
  std::map<int64_t, ops::MemoryEvent> live;
  for (const ops::MemoryEvent& event : events) {
    if (event.bytes > 0) live[event.allocation] = event;
    if (event.bytes == 0 && live.contains(event.allocation)) live[event.allocation].use = event.use;
    if (event.bytes < 0) live.erase(event.allocation);
    if (event.bytes > 0 && event.allocation == peak_allocation) break;
  }
  std::map<std::tuple<std::string, std::string, ops::MemoryUse>, AliveAtPeak> sums;
  for (const auto& [number, event] : live) {
    const std::string block = event.block ? *event.block : "", op = op_name(event.op);
    AliveAtPeak& sum = sums[{block, op, event.use}];
    sum = {block, op, event.use, sum.count + 1, sum.bytes + event.bytes};
  }
  std::vector<AliveAtPeak> out;
  for (auto& [key, sum] : sums) out.push_back(std::move(sum));
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return out;
}

// Copies of before left out.
parallel::OffloadBytes since(parallel::OffloadBytes now, const parallel::OffloadBytes& before) {
  for (const auto space : {&parallel::OffloadBytes::host, &parallel::OffloadBytes::file}) {
    (now.*space).written -= (before.*space).written;
    (now.*space).read -= (before.*space).read;
  }
  return now;
}

// Counts from here on what a rank does, its model being made.
class Counting {
 public:
  Counting(RankPlan& plan, const ops::MemoryCount& memory, parallel::Communicator& ranks,
           const models::Model& model)
      : plan_(plan), first_event_(plan.events.size()) {
    plan.resident_bytes = memory.live();
    for (const auto& row : model.parameters->rows()) plan.parameters += row->value.numel();
    ranks.clear_traffic();
  }
  void finish() {
    plan_.flops = flops_.all();
    plan_.recomputed = flops_.recomputed();
    for (size_t i = first_event_; i < plan_.events.size(); ++i) {
      plan_.allocated_bytes += std::max<int64_t>(plan_.events[i].bytes, 0);
    }
  }

 private:
  RankPlan& plan_;
  size_t first_event_;
  ops::FlopCount flops_;
};

void run_training(const StepToPlan& what, models::Model& model, const ops::MemoryCount& memory,
                  parallel::Communicator& ranks, RankPlan& plan) {
  const auto layout = SequenceLayout::over(ranks.mesh(), what.row_length);
  TrainingStep step(model, what.train, at::kMeta, {&ranks, what.parallel, layout});
  if (what.on_action) {
    step.runner().set_trace([&, done = int64_t{0}](const parallel::StepPlan& actions, const parallel::Action&,
                                                   double, double) mutable {
      what.on_action(++done, static_cast<int64_t>(actions.actions.size()));
    });
  }
  Counting counting(plan, memory, ranks, model);
  std::vector<data::Batch> batches;
  for (const parallel::Interval& rows : micro_batches_of(what.train, ranks.mesh(), 0)) {
    batches.push_back(planned_rows(what, layout, rows));
  }
  const parallel::OffloadBytes before = step.offloaded();
  step.run(batches, 0);
  plan.offloaded = since(step.offloaded(), before);
  counting.finish();
}

// Whole windows of records of their own, as many as every rank of data takes at a time.
void run_windows(const StepToPlan& what, models::Model& model, const ops::MemoryCount& memory,
                 parallel::Communicator& ranks, RankPlan& plan) {
  parallel::partition_parameters(*model.parameters, ranks.mesh(), what.parallel.zero);
  model.parameters->materialize(at::kMeta, scalar_type_of(what.train.precision), 0, /*trains=*/false);
  const int64_t window = window_of(what, model);
  const int64_t records = tokens_of_rows(what, model) / window * ranks.mesh().degree("data");
  WindowOptions options = what.windows;
  options.device = at::kMeta;
  options.on_action = what.on_action;
  Counting counting(plan, memory, ranks, model);
  const auto run = [&](auto&& runner) {
    for (int64_t r = 0; r < records; ++r) {
      runner.add("", std::vector<int32_t>(static_cast<size_t>(window), 0));
    }
    runner.finish();
  };
  if (what.work == PlannedWork::kScore) {
    run(Scorer(
        model, options, [](const Score&) {}, &ranks));
  } else {
    run(Embedder(
        model, options, {}, [](const std::string&, std::span<const float>) {}, &ranks));
  }
  counting.finish();
}

RankPlan run_rank(const StepToPlan& what, const Mesh& mesh, std::unique_ptr<parallel::Transport> transport,
                  bool with_events) {
  RankPlan plan;
  parallel::Communicator ranks(mesh, std::move(transport), nullptr, {});
  ops::MemoryCount memory;
  if (with_events) memory.listen([&](const ops::MemoryEvent& event) { plan.events.push_back(event); });
  models::Model model = model_of(what, mesh);
  (what.work == PlannedWork::kTraining ? run_training : run_windows)(what, model, memory, ranks, plan);
  plan.peak_bytes = memory.peak();
  plan.at_peak = memory.at_peak();
  plan.traffic = ranks.traffic();
  memory.listen({});
  plan.alive = alive_at(plan.events, memory.peak_allocation());
  return plan;
}

// The stages of one pipeline, by their place in it.
std::vector<RankPlan> run_pipeline(const StepToPlan& what, const std::vector<int64_t>& ranks,
                                   bool with_events) {
  const auto size = static_cast<int64_t>(ranks.size());
  parallel::PlanPeers peers(parallel::kPipeAxis, size);
  std::vector<RankPlan> plans(ranks.size());
  std::vector<std::exception_ptr> errors(ranks.size());
  std::vector<std::thread> threads;
  StepToPlan untold = what;
  untold.on_action = nullptr;
  for (size_t i = 0; i < ranks.size(); ++i) {
    threads.emplace_back([&, i] {
      std::string failure;
      try {
        const Mesh mesh = parallel::make_mesh(what.parallel, what.world_size, ranks[i]);
        plans[i] = run_rank(i == 0 ? what : untold, mesh, peers.make_transport(), with_events);
      } catch (const std::exception& error) {
        failure = error.what();
        errors[i] = std::current_exception();
      }
      peers.leave(failure);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return plans;
}

}  // namespace

int64_t window_of(const StepToPlan& what, const models::Model& model) {
  return what.windows.window > 0 ? what.windows.window : max_positions_of(model, what.row_length);
}

int64_t tokens_of_rows(const StepToPlan& what, const models::Model& model) {
  if (what.work == PlannedWork::kTraining) return what.row_length;
  const int64_t window = window_of(what, model);
  return std::max<int64_t>(what.windows.batch_tokens / window, 1) * window;
}

std::vector<RankPlan> plan_step(const StepToPlan& what, bool with_events) {
  AXIAL_CHECK(what.build && what.registry != nullptr, "plan", "a model and its registry; expected both");
  std::map<std::vector<int64_t>, std::vector<int64_t>> ranks_of_role;
  std::vector<std::vector<int64_t>> roles;              // of each rank
  std::map<std::array<int64_t, 3>, models::Model> cut;  // by place along the axes that cut the model
  const models::Model first = model_of(what, parallel::make_mesh(what.parallel, what.world_size, 0));
  const bool cuts_positions = first.position_cut && first.position_cut->layouts;
  for (int64_t rank = 0; rank < what.world_size; ++rank) {
    const Mesh mesh = parallel::make_mesh(what.parallel, what.world_size, rank);
    models::Model& model = cut[{mesh.coordinate(parallel::kPipeAxis), mesh.coordinate(parallel::kTensorAxis),
                                cuts_positions ? mesh.group_rank(mesh.sequence_axes(), rank) : 0}];
    if (!model.parameters) model = model_of(what, mesh);
    roles.push_back(role_of(what, mesh, model));
    ranks_of_role[roles.back()].push_back(rank);
  }
  const auto role = [&](int64_t rank) -> const std::vector<int64_t>& {
    return roles[static_cast<size_t>(rank)];
  };
  std::vector<std::vector<int64_t>> runs;  // ranks that run together: the stages of a pipeline
  std::set<std::vector<int64_t>> seen;
  for (int64_t rank = 0; rank < what.world_size; ++rank) {
    if (seen.contains(role(rank))) continue;
    const Mesh mesh = parallel::make_mesh(what.parallel, what.world_size, rank);
    runs.push_back(parallel::pipe_degree(mesh) == 1 ? std::vector{rank}
                                                    : mesh.group({parallel::kPipeAxis}, rank));
    for (const int64_t stage : runs.back()) seen.insert(role(stage));
  }
  std::map<std::vector<int64_t>, RankPlan> plans;
  for (size_t r = 0; r < runs.size(); ++r) {
    StepToPlan run = what;
    if (what.on_action) {
      run.on_action = [&, r](int64_t done, int64_t total) {
        what.on_action(static_cast<int64_t>(r) * total + done, static_cast<int64_t>(runs.size()) * total);
      };
    }
    const std::vector<int64_t>& ranks = runs[r];
    const Mesh mesh = parallel::make_mesh(what.parallel, what.world_size, ranks[0]);
    if (parallel::pipe_degree(mesh) == 1) {
      plans.emplace(role(ranks[0]), run_rank(run, mesh, parallel::make_recording_transport(), with_events));
      continue;
    }
    std::vector<RankPlan> of_stages = run_pipeline(run, ranks, with_events);
    for (size_t i = 0; i < ranks.size(); ++i) plans.emplace(role(ranks[i]), std::move(of_stages[i]));
  }
  std::vector<RankPlan> out;
  for (int64_t rank = 0; rank < what.world_size; ++rank) {
    const std::vector<int64_t>& ranks = ranks_of_role.at(roles[static_cast<size_t>(rank)]);
    if (ranks.front() != rank) continue;
    out.push_back(std::move(plans.at(roles[static_cast<size_t>(rank)])));
    out.back().ranks = ranks;
  }
  return out;
}

}  // namespace axial::train
