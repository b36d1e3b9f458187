// SPDX-License-Identifier: Apache-2.0
// A plan in tables and in JSON.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "axial/core/text/table.h"
#include "axial/core/text/text.h"
#include "axial/train/metrics/curve.h"
#include "axial/train/plan/estimate.h"
#include "axial/train/plan/plan.h"

namespace axial::train {

namespace {

using nlohmann::json;

constexpr ops::MemoryUse kUses[] = {ops::MemoryUse::kParameters,    ops::MemoryUse::kGradients,
                                    ops::MemoryUse::kOptimizer,     ops::MemoryUse::kActivations,
                                    ops::MemoryUse::kLogits,        ops::MemoryUse::kGathered,
                                    ops::MemoryUse::kCommunication, ops::MemoryUse::kOther};

int64_t bytes_of(const PlannedRanks& ranks, ops::MemoryUse use) {
  return ranks.step.at_peak[static_cast<size_t>(use)];
}

// "0-3, 8": of [0, 1, 2, 3, 8].
std::string intervals(const std::vector<int64_t>& ranks) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    parts.push_back(last == i ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[last]));
    i = last + 1;
  }
  const std::string text = fmt::format("{}", fmt::join(parts, ", "));
  return text.size() <= 24 ? text : fmt::format("{} ranks from {}", ranks.size(), ranks.front());
}

std::string memory_table(const Plan& plan) {
  std::vector<TextTable::Column> columns{{"ranks"}};
  for (const PlannedRanks& ranks : plan.roles)
    columns.push_back({intervals(ranks.step.ranks), Align::kRight});
  TextTable table(columns);
  const auto row = [&](const std::string& name, const auto& value) {
    std::vector<std::string> cells{name};
    for (const PlannedRanks& ranks : plan.roles) cells.push_back(human_bytes(value(ranks)));
    table.add_row(std::move(cells));
  };
  for (const ops::MemoryUse use : kUses) {
    row(ops::name_of(use), [&](const PlannedRanks& r) { return bytes_of(r, use); });
  }
  table.add_rule();
  row("tensors at the peak", [](const PlannedRanks& r) { return r.step.peak_bytes; });
  row("fragmentation", [](const PlannedRanks& r) { return r.reserved.peak_reserved - r.step.peak_bytes; });
  row("context, communicators", [](const PlannedRanks& r) { return r.outside_bytes; });
  table.add_rule();
  row("needed", [](const PlannedRanks& r) { return r.needed_bytes(); });
  const auto any = [&](parallel::SpaceBytes parallel::OffloadBytes::*space) {
    return std::any_of(plan.roles.begin(), plan.roles.end(),
                       [&](const PlannedRanks& r) { return (r.step.offloaded.*space).peak > 0; });
  };
  if (any(&parallel::OffloadBytes::host)) {
    row("memory of the host", [](const PlannedRanks& r) { return r.step.offloaded.host.peak; });
    row("  copied to it in a step", [](const PlannedRanks& r) { return r.step.offloaded.host.written; });
    row("  copied from it", [](const PlannedRanks& r) { return r.step.offloaded.host.read; });
  }
  if (any(&parallel::OffloadBytes::file)) {
    row("files", [](const PlannedRanks& r) { return r.step.offloaded.file.peak; });
    row("  written in a step", [](const PlannedRanks& r) { return r.step.offloaded.file.written; });
    row("  read", [](const PlannedRanks& r) { return r.step.offloaded.file.read; });
  }
  return table.render();
}

std::string traffic_table(const PlannedRanks& ranks) {
  TextTable table(
      {{"over"}, {"call"}, {"calls", Align::kRight}, {"sent", Align::kRight}, {"padding", Align::kRight}});
  for (const auto& [key, traffic] : ranks.step.traffic) {
    if (traffic.bytes == 0) continue;
    table.add_row({key.first, key.second, with_commas(traffic.calls), human_bytes(traffic.bytes),
                   human_bytes(traffic.padding)});
  }
  return table.render();
}

// Layers of one kind are one line: "layers.*".
std::string kind_of(const std::string& block) {
  std::string out;
  for (size_t i = 0; i < block.size(); ++i) {
    const bool digit = block[i] >= '0' && block[i] <= '9';
    if (!digit) out += block[i];
    if (digit && (out.empty() || out.back() != '*')) out += '*';
  }
  return out;
}

std::string alive_table(const PlannedRanks& ranks) {
  std::map<std::tuple<std::string, std::string, ops::MemoryUse>, std::pair<int64_t, int64_t>> sums;
  for (const AliveAtPeak& alive : ranks.step.alive) {
    auto& [count, bytes] = sums[{kind_of(alive.block), alive.op, alive.use}];
    count += alive.count;
    bytes += alive.bytes;
  }
  std::vector<std::pair<int64_t, std::vector<std::string>>> rows;
  for (const auto& [key, sum] : sums) {
    const auto& [block, op, use] = key;
    rows.push_back(
        {sum.second, {block, op, ops::name_of(use), with_commas(sum.first), human_bytes(sum.second)}});
  }
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  TextTable table({{"block"}, {"op"}, {"use"}, {"tensors", Align::kRight}, {"bytes", Align::kRight}});
  for (size_t i = 0; i < std::min<size_t>(rows.size(), 12); ++i) table.add_row(rows[i].second);
  return table.render();
}

bool sends(const PlannedRanks& ranks) {
  for (const auto& [key, traffic] : ranks.step.traffic) {
    if (traffic.bytes > 0) return true;
  }
  return false;
}

json to_json(const PlannedRanks& ranks) {
  json at_peak = json::object(), traffic = json::array();
  for (const ops::MemoryUse use : kUses) at_peak[ops::name_of(use)] = bytes_of(ranks, use);
  for (const auto& [key, t] : ranks.step.traffic) {
    traffic.push_back({{"axes", key.first},
                       {"op", key.second},
                       {"calls", t.calls},
                       {"bytes", t.bytes},
                       {"padding", t.padding}});
  }
  json alive = json::array();
  for (const AliveAtPeak& a : ranks.step.alive) {
    alive.push_back({{"block", a.block},
                     {"op", a.op},
                     {"use", ops::name_of(a.use)},
                     {"count", a.count},
                     {"bytes", a.bytes}});
  }
  json timeline = json::array();
  for (const ops::BytesByUse& bytes : ranks.timeline) {
    json& point = timeline.emplace_back(json::array());
    for (const ops::MemoryUse use : kUses) point.push_back(bytes[static_cast<size_t>(use)]);
  }
  return {{"ranks", ranks.step.ranks},
          {"alive", alive},
          {"timeline", timeline},
          {"parameters", ranks.step.parameters},
          {"resident_bytes", ranks.step.resident_bytes},
          {"peak_bytes", ranks.step.peak_bytes},
          {"at_peak", at_peak},
          {"reserved_bytes", ranks.reserved.peak_reserved},
          {"outside_bytes", ranks.outside_bytes},
          {"needed_bytes", ranks.needed_bytes()},
          {"host_bytes", ranks.step.offloaded.host.peak},
          {"host_written_bytes", ranks.step.offloaded.host.written},
          {"host_read_bytes", ranks.step.offloaded.host.read},
          {"file_bytes", ranks.step.offloaded.file.peak},
          {"file_written_bytes", ranks.step.offloaded.file.written},
          {"file_read_bytes", ranks.step.offloaded.file.read},
          {"fits", ranks.reserved.fits},
          {"flops", flops_json(ranks.step.flops)},
          {"recomputed_flops", flops_json(ranks.step.recomputed)},
          {"allocated_bytes", ranks.step.allocated_bytes},
          {"traffic", traffic}};
}

std::string verdict_text(const Plan& plan) {
  const int64_t spare = plan.spare_bytes(), memory = plan.device.memory;
  if (plan.fits()) return fmt::format("fits: {} of {} are left\n", human_bytes(spare), human_bytes(memory));
  if (plan.host_spare_bytes() < 0 && spare == plan.host_spare_bytes()) {
    return fmt::format("does not fit: {} of the host's {} for each device are missing\n", human_bytes(-spare),
                       human_bytes(plan.device.host));
  }
  return fmt::format("does not fit: {} of {} are missing on rank {}\n",
                     human_bytes(std::max<int64_t>(-spare, 0)), human_bytes(memory),
                     plan.largest().step.ranks.front());
}

}  // namespace

std::string to_text(const Plan& plan, const EstimateAssumptions& assumptions) {
  const bool trains = plan.work == PlannedWork::kTraining;
  std::string text =
      fmt::format("{} parameters, {} {} of {} tokens {}, {} at a time{}, on {} x {}\n\n{}\n",
                  with_commas(plan.parameters), plan.batch, trains ? "rows" : "windows",
                  with_commas(plan.row_length), trains ? "a step" : "a batch", plan.micro_batch,
                  trains ? "" : " on each data rank", plan.world_size, plan.device.name, memory_table(plan));
  const PlannedRanks& largest = plan.largest();
  text += fmt::format("alive at the peak of rank {}, largest first\n\n{}\n", largest.step.ranks.front(),
                      alive_table(largest));
  if (sends(largest)) {
    text +=
        fmt::format("sent by rank {} in a step\n\n{}\n", largest.step.ranks.front(), traffic_table(largest));
  }
  text += flops_text(plan) + estimate_text(plan, assumptions) + "\n";
  return text + verdict_text(plan);
}

std::string to_picture(const Plan& plan) {
  constexpr double kGiB = 1 << 30;
  const PlannedRanks& largest = plan.largest();
  CurvePlot plot;
  plot.title = fmt::format("rank {} of {}: {} rows of {} tokens at a time", largest.step.ranks.front(),
                           plan.world_size, plan.micro_batch, with_commas(plan.row_length));
  plot.x_label = "allocations and releases, in hundredths of making the model and one step";
  plot.y_label = "GiB of tensors";
  plot.exp_name = "";
  // What lies on top first: each area covers the ones below it.
  for (size_t top = std::size(kUses); top-- > 0;) {
    Curve curve{ops::name_of(kUses[top]), {}, CurveStyle::kArea};
    for (size_t i = 0; i < largest.timeline.size(); ++i) {
      double sum = 0;
      for (size_t u = 0; u <= top; ++u) {
        sum += static_cast<double>(largest.timeline[i][static_cast<size_t>(kUses[u])]);
      }
      const double x = 100.0 * static_cast<double>(i + 1) / static_cast<double>(largest.timeline.size());
      curve.points.push_back({x, sum / kGiB});
    }
    plot.curves.push_back(std::move(curve));
  }
  const double room = static_cast<double>(plan.device.memory - largest.outside_bytes) / kGiB;
  if (room < 3 * static_cast<double>(largest.step.peak_bytes) / kGiB) {
    plot.baselines.push_back({plan.device.name, room});
  }
  return render_curve(plot);
}

json to_json(const Plan& plan, const EstimateAssumptions& assumptions) {
  const PlannedFlops flops = flops_of(plan);
  json roles = json::array(), uses = json::array();
  for (const PlannedRanks& ranks : plan.roles) roles.push_back(to_json(ranks));
  for (const ops::MemoryUse use : kUses) uses.push_back(ops::name_of(use));
  return {{"world_size", plan.world_size},
          {"device", recipe::options_to_json(plan.device)},
          {"work", plan.work == PlannedWork::kTraining ? "train"
                   : plan.work == PlannedWork::kEmbed  ? "embed"
                                                       : "score"},
          {"row_length", plan.row_length},
          {"batch", plan.batch},
          {"micro_batch", plan.micro_batch},
          {"parameters", plan.parameters},
          {"uses", uses},
          {"fits", plan.fits()},
          {"spare_bytes", plan.spare_bytes()},
          {"seconds", plan.seconds},
          {"flops", flops_json(flops.all)},
          {"recomputed_flops", flops_json(flops.recomputed)},
          {"estimate", estimate_json(estimate(plan, assumptions), assumptions)},
          {"roles", roles}};
}

}  // namespace axial::train
