// SPDX-License-Identifier: Apache-2.0
// OpProfile over torch's RecordFunction observers. Called by `axial train --profile`.
#include "axial/train/profile/op_profile.h"

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "axial/core/check/check.h"
#include "axial/core/text/table.h"

namespace axial::train {
namespace {

// torch's observers are plain functions: they find their profile by the thread they run on.
thread_local OpProfile* current = nullptr;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// "autograd::engine::evaluate_function: torch::autograd::CppNode<axial::ops::(anonymous
// namespace)::LayerNorm>" is "backward of LayerNorm".
std::string short_name(std::string_view name) {
  constexpr std::string_view kBackward = "autograd::engine::evaluate_function: ";
  if (!name.starts_with(kBackward)) return std::string(name);
  name.remove_prefix(kBackward.size());
  if (name.ends_with('>')) name.remove_suffix(1);
  const size_t cut = name.rfind("::");
  if (cut != std::string_view::npos) name.remove_prefix(cut + 2);
  return fmt::format("backward of {}", name);
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction&) {
  if (current != nullptr) current->enter();
  return nullptr;
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (current != nullptr) current->leave(function.name());
}

}  // namespace

OpProfile::OpProfile() : begin_(now_s()) {
  AXIAL_CHECK(current == nullptr, "profile",
              "this thread is profiled already; expected one profile at a time");
  current = this;
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(on_begin, on_end)
                                           .scopes({at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE}));
}

OpProfile::~OpProfile() {
  at::removeCallback(handle_);
  current = nullptr;
}

void OpProfile::enter() {
  if (depth_++ == 0) begin_of_op_ = now_s();
}

void OpProfile::leave(std::string_view name) {
  if (depth_ == 0 || --depth_ > 0) return;  // an op that began before the profile is not counted
  const auto found = totals_.find(name);
  Total& total = found != totals_.end() ? found->second : totals_[std::string(name)];
  total.calls += 1;
  total.seconds += now_s() - begin_of_op_;
}

std::vector<OpProfile::Row> OpProfile::rows() const {
  std::vector<Row> rows;
  double rest = now_s() - begin_;
  for (const auto& [name, total] : totals_) {
    rows.push_back({short_name(name), total.calls, total.seconds});
    rest -= total.seconds;
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  rows.push_back({"between ops", 0, std::max(0.0, rest)});
  return rows;
}

std::string OpProfile::render(int64_t steps) const {
  constexpr Align kRight = Align::kRight;
  TextTable table({{"op"}, {"calls/step", kRight}, {"ms/step", kRight}, {"share", kRight}});
  const std::vector<Row> all = rows();
  const auto per_step = [&](double x) { return x / static_cast<double>(std::max<int64_t>(steps, 1)); };
  double sum = 0;
  for (const Row& row : all) sum += row.seconds;
  for (const Row& row : all) {
    table.add_row({row.name,
                   row.calls > 0 ? fmt::format("{:.1f}", per_step(static_cast<double>(row.calls))) : "",
                   fmt::format("{:.2f}", per_step(row.seconds) * 1e3),
                   fmt::format("{:.1f} %", sum > 0 ? row.seconds / sum * 100 : 0.0)});
  }
  table.add_rule();
  table.add_row({"step", "", fmt::format("{:.2f}", per_step(sum) * 1e3), "100.0 %"});
  return table.render();
}

}  // namespace axial::train
