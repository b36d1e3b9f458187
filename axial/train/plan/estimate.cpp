// SPDX-License-Identifier: Apache-2.0
// Rates times shares, and the words around the result.
#include "axial/train/plan/estimate.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "axial/core/text/text.h"

namespace axial::train {

namespace {

using parallel::Mesh;

// "data+ring" as a mesh names them.
parallel::Axes axes_of(std::string_view joined) {
  parallel::Axes axes;
  while (!joined.empty()) {
    const size_t end = std::min(joined.find('+'), joined.size());
    axes.emplace_back(joined.substr(0, end));
    joined.remove_prefix(std::min(end + 1, joined.size()));
  }
  return axes;
}

// Bytes per second of what this rank sends over these axes: of its machine's links where none of its group
// is elsewhere.
double rate_of(const Plan& plan, const Mesh& mesh, std::string_view axes) {
  const int64_t machine = mesh.rank() / plan.device.per_machine;
  for (const int64_t rank : mesh.group(axes_of(axes), mesh.rank())) {
    if (rank / plan.device.per_machine != machine) return plan.device.network;
  }
  return plan.device.link;
}

double peak_of(const Plan& plan) {
  switch (plan.precision) {
    case Precision::kBf16:
    case Precision::kFp16:
      return plan.device.flops_16bit;
    case Precision::kFp32:
      return plan.device.flops_32bit;
    case Precision::kFp64:
      return 0;  // not in the table
  }
  return 0;
}

struct Seconds {
  double products = 0, memory = 0, messages = 0;
  double sum() const { return products + memory + messages; }
};

Seconds seconds_of(const Plan& plan, const PlannedRanks& ranks, const EstimateAssumptions& a) {
  const Mesh mesh = parallel::make_mesh(plan.parallel, plan.world_size, ranks.step.ranks.front());
  Seconds s;
  s.products = ranks.step.flops.sum() / (peak_of(plan) * a.products);
  s.memory = 2 * static_cast<double>(ranks.step.allocated_bytes) / (plan.device.bandwidth * a.bandwidth);
  for (const auto& [key, traffic] : ranks.step.traffic) {
    if (traffic.bytes == 0) continue;
    s.messages += static_cast<double>(traffic.bytes) / (rate_of(plan, mesh, key.first) * a.links);
  }
  return s;
}

// Narayanan et al., 2021: P - 1 micro-batches' work of one of v stages at each end, v where P divides M.
double idle_share_of(const Plan& plan) {
  const auto pipe = static_cast<double>(plan.parallel.pipe);
  const auto count = static_cast<double>(plan.micro_batches);
  if (plan.parallel.pipe == 1 || plan.micro_batches == 0) return 0;
  const bool interleaved = plan.micro_batches % plan.parallel.pipe == 0;
  const double stages = interleaved ? static_cast<double>(plan.parallel.stages_per_rank) : 1;
  return (pipe - 1) / (stages * count + pipe - 1);
}

bool states_rates(const Plan& plan) {
  const Device& d = plan.device;
  const bool alone = plan.world_size == 1;
  return peak_of(plan) > 0 && d.bandwidth > 0 && (alone || (d.link > 0 && d.network > 0));
}

}  // namespace

std::string seconds_text(double seconds) {
  if (seconds >= 60) return human_duration(seconds);
  return seconds >= 0.1 ? fmt::format("{:.2g} s", seconds) : fmt::format("{:.2g} ms", 1e3 * seconds);
}

PlannedFlops flops_of(const Plan& plan) {
  PlannedFlops sum;
  for (const PlannedRanks& role : plan.roles) {
    const auto ranks = static_cast<double>(role.step.ranks.size());
    sum.all += ranks * role.step.flops;
    sum.recomputed += ranks * role.step.recomputed;
  }
  return sum;
}

StepEstimate estimate(const Plan& plan, const EstimateAssumptions& assumptions) {
  StepEstimate out;
  const PlannedFlops flops = flops_of(plan);
  out.known = states_rates(plan) && flops.all.sum() > 0;
  if (!out.known) return out;
  Seconds slowest;
  for (const PlannedRanks& role : plan.roles) {
    const Seconds s = seconds_of(plan, role, assumptions);
    if (s.sum() > slowest.sum()) slowest = s;
  }
  out.products_s = slowest.products;
  out.memory_s = slowest.memory;
  out.messages_s = slowest.messages;
  out.idle_share = idle_share_of(plan);
  const double busy = 1 - out.idle_share;
  out.shortest_s = std::max(slowest.products + slowest.memory, slowest.messages) / busy;
  out.longest_s = slowest.sum() / busy;
  out.tokens_per_s = static_cast<double>(plan.batch * plan.row_length) / out.longest_s;
  const double model = flops.all.sum() - flops.recomputed.sum();
  out.model_share = model / (out.longest_s * peak_of(plan) * static_cast<double>(plan.world_size));
  return out;
}

std::string flops_text(const Plan& plan) {
  const PlannedFlops flops = flops_of(plan);
  if (flops.all.sum() == 0) return "";
  const double model = flops.all.sum() - flops.recomputed.sum();
  const double square = flops.all.sum_of_square() - flops.recomputed.sum_of_square();
  return fmt::format(
      "operations of a step on all ranks: {:.4g} that the model asks for, {:.4g} with what is computed "
      "again\n"
      "  (attention: pairs that see each other; as full squares {:.4g} and {:.4g})\n",
      model, flops.all.sum(), square, flops.all.sum_of_square());
}

std::string estimate_text(const Plan& plan, const EstimateAssumptions& a) {
  const StepEstimate e = estimate(plan, a);
  if (!e.known) {
    return fmt::format("no estimate of time: {} states no rates for this precision\n", plan.device.name);
  }
  std::string text = fmt::format(
      "estimate: a step takes {} to {} (messages hidden or not), about {} tokens/s, {:.0f} % of the peak by "
      "the model's operations\n  products {}, tensors to and from memory {}, messages {}",
      seconds_text(e.shortest_s), seconds_text(e.longest_s), human_count(e.tokens_per_s), 100 * e.model_share,
      seconds_text(e.products_s), seconds_text(e.memory_s), seconds_text(e.messages_s));
  if (e.idle_share > 0) text += fmt::format("; a pipeline that idles {:.0f} %", 100 * e.idle_share);
  text += fmt::format(
      "\n  assumed: {:.0f} % of {}'s peak operations, {:.0f} % of its memory's bandwidth, {:.0f} % of links "
      "and network;\n  launches, host, optimizer and stragglers left out\n",
      100 * a.products, plan.device.name, 100 * a.bandwidth, 100 * a.links);
  return text;
}

nlohmann::json flops_json(const ops::Flops& flops) {
  return {{"products", flops.products},
          {"attention", flops.attention},
          {"attention_square", flops.attention_square}};
}

nlohmann::json estimate_json(const StepEstimate& e, const EstimateAssumptions& a) {
  if (!e.known) return nullptr;
  return {{"shortest_s", e.shortest_s},
          {"longest_s", e.longest_s},
          {"products_s", e.products_s},
          {"memory_s", e.memory_s},
          {"messages_s", e.messages_s},
          {"idle_share", e.idle_share},
          {"tokens_per_s", e.tokens_per_s},
          {"model_share", e.model_share},
          {"assumed", {{"products", a.products}, {"bandwidth", a.bandwidth}, {"links", a.links}}}};
}

}  // namespace axial::train
