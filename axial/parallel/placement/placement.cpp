// SPDX-License-Identifier: Apache-2.0
// Matches parameters with rules and writes what the rules say into the rows of the table.
#include "axial/parallel/placement/placement.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "placement";

bool matches(std::string_view pattern, std::string_view name) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (name.substr(0, star) != pattern.substr(0, star)) return false;
  for (size_t skipped = star; skipped <= name.size(); ++skipped) {
    if (matches(pattern.substr(star + 1), name.substr(skipped))) return true;
  }
  return false;
}

void place(Parameter& parameter, const Placement& placement, const ParallelOptions& options) {
  const std::vector<int64_t>& shape = parameter.spec.shape;
  parameter.sharded_axes.clear();
  parameter.partial_axes.clear();
  parameter.shared_rows.clear();
  if (placement.kind == Placement::Kind::kStream) {
    parameter.holding = Holding::whole(shape);
    if (options.sequence_regions) parameter.partial_axes = {kTensorAxis};
    return;
  }
  const int64_t dim = placement.kind == Placement::Kind::kColumn ? 0 : 1;
  AXIAL_CHECK(dim < static_cast<int64_t>(shape.size()), kOp,
              "parameter '{}' is cut along dim {}; expected it to have one, got shape [{}]",
              parameter.spec.name, dim, fmt::join(shape, ", "));
  parameter.holding = Holding::cut(shape, dim, placement.held);
  parameter.holding.validate(parameter.spec.name, shape);
  parameter.sharded_axes = {kTensorAxis};
  parameter.shared_rows = placement.shared_rows;
}

}  // namespace

int64_t tensor_degree(const Mesh& mesh) {
  const auto& axes = mesh.axes();
  const auto found =
      std::find_if(axes.begin(), axes.end(), [](const auto& a) { return a.name == kTensorAxis; });
  return found == axes.end() ? 1 : found->degree;
}

Placement Placement::column(Intervals held, std::vector<SharedRows> shared_rows) {
  return {Kind::kColumn, std::move(held), std::move(shared_rows)};
}

Placement Placement::row(Intervals held) { return {Kind::kRow, std::move(held), {}}; }

void place_parameters(ParameterTable& parameters, const std::vector<PlacementRule>& rules,
                      const ParallelOptions& options) {
  for (const auto& row : parameters.rows()) {
    const std::string& name = row->spec.name;
    const auto rule = std::find_if(rules.begin(), rules.end(),
                                   [&](const PlacementRule& r) { return matches(r.pattern, name); });
    AXIAL_CHECK(rule != rules.end(), kOp, "parameter '{}' has no line in the model's table of placements",
                name);
    AXIAL_CHECK(!row->value.defined(), kOp,
                "parameter '{}' has a value already; expected a table that is not materialised", name);
    place(*row, rule->placement, options);
  }
}

}  // namespace axial::parallel
