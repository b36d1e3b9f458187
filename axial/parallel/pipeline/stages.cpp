// SPDX-License-Identifier: Apache-2.0
// The balanced cut, and what it makes of the rows of the table.
#include "axial/parallel/pipeline/stages.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "pipe";
constexpr double kNever = std::numeric_limits<double>::infinity();

// best[s][b]: least value of the first b blocks as s stages; from[s][b]: where the last of them begins.
struct Cuts {
  std::vector<std::vector<double>> best;
  std::vector<std::vector<int64_t>> from;
};

// `join(a, c)`: value of stages of value `a` and one more of cost `c`.
template <class Join>
Cuts cut(const std::vector<double>& prefix, int64_t num_stages, const Join& join) {
  const auto n = static_cast<int64_t>(prefix.size()) - 1;
  Cuts cuts{std::vector(static_cast<size_t>(num_stages + 1), std::vector<double>(prefix.size(), kNever)),
            std::vector(static_cast<size_t>(num_stages + 1), std::vector<int64_t>(prefix.size(), 0))};
  cuts.best[0][0] = 0;
  for (int64_t s = 1; s <= num_stages; ++s) {
    for (int64_t end = s; end <= n; ++end) {
      for (int64_t begin = s - 1; begin < end; ++begin) {
        const double before = cuts.best[static_cast<size_t>(s - 1)][static_cast<size_t>(begin)];
        const double cost = prefix[static_cast<size_t>(end)] - prefix[static_cast<size_t>(begin)];
        const double value = before == kNever ? kNever : join(before, cost);
        double& best = cuts.best[static_cast<size_t>(s)][static_cast<size_t>(end)];
        if (value >= best) continue;
        best = value;
        cuts.from[static_cast<size_t>(s)][static_cast<size_t>(end)] = begin;
      }
    }
  }
  return cuts;
}

// Rows of which several stages hold what `copies` ranks hold alike already.
std::vector<SharedRows> shared_by_stages(const Parameter& row, int64_t copies) {
  std::vector<SharedRows> out;
  int64_t at = 0;
  const int64_t rows = row.holding.sliced_shape()[0];
  for (const SharedRows& shared : row.shared_rows) {
    if (at < shared.begin) out.push_back({at, shared.begin, copies});
    out.push_back({shared.begin, shared.end, shared.copies * copies});
    at = shared.end;
  }
  if (at < rows) out.push_back({at, rows, copies});
  return out;
}

}  // namespace

Stages Stages::whole(int64_t num_blocks) { return {{{0, num_blocks}}, 1}; }

Stages Stages::balanced(const std::vector<int64_t>& costs, int64_t ranks, int64_t per_rank) {
  AXIAL_CHECK(ranks >= 1 && per_rank >= 1, kOp,
              "stages; expected at least 1 rank and 1 stage on it, got {} and {}", ranks, per_rank);
  const auto n = static_cast<int64_t>(costs.size());
  const int64_t num_stages = ranks * per_rank;
  AXIAL_CHECK(
      num_stages <= n, kOp,
      "{} ranks with {} stages each; expected at most as many stages as the model has blocks ({}), got {}",
      ranks, per_rank, n, num_stages);
  std::vector<double> prefix{0};
  for (const int64_t cost : costs) prefix.push_back(prefix.back() + static_cast<double>(cost));
  const auto last = static_cast<size_t>(n);
  const auto largest = [](double a, double c) { return std::max(a, c); };
  const double bound = cut(prefix, num_stages, largest).best[static_cast<size_t>(num_stages)][last];
  const Cuts cuts =
      cut(prefix, num_stages, [&](double a, double c) { return c > bound ? kNever : a + c * c; });
  Stages stages{std::vector<BlockRange>(static_cast<size_t>(num_stages)), ranks};
  int64_t end = n;
  for (int64_t s = num_stages; s > 0; --s) {
    const int64_t begin = cuts.from[static_cast<size_t>(s)][static_cast<size_t>(end)];
    stages.ranges[static_cast<size_t>(s - 1)] = {begin, end};
    end = begin;
  }
  return stages;
}

int64_t Stages::of_block(int64_t block) const {
  for (int64_t s = 0; s < size(); ++s) {
    if (0 <= block && block < ranges[static_cast<size_t>(s)].end) return s;
  }
  fail(kOp, "block; expected one of [0, {}), got {}", num_blocks(), block);
}

Stages Stages::without_last_block() const {
  Stages out = *this;
  if (--out.ranges.back().end == out.ranges.back().begin) out.ranges.pop_back();
  return out;
}

int64_t pipe_degree(const Mesh& mesh) {
  const auto& axes = mesh.axes();
  const auto found =
      std::find_if(axes.begin(), axes.end(), [](const auto& a) { return a.name == kPipeAxis; });
  return found == axes.end() ? 1 : found->degree;
}

std::vector<int64_t> block_costs(const std::vector<Block>& blocks, const ParameterTable& parameters) {
  std::vector<int64_t> costs;
  for (const Block& block : blocks) {
    costs.push_back(1);
    for (const std::string& name : block.parameters) {
      const std::vector<int64_t>& shape = parameters.at(name).spec.shape;
      costs.back() += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    }
  }
  return costs;
}

void place_stages(ParameterTable& parameters, const std::vector<std::vector<std::string>>& names,
                  const Stages& stages, const Mesh& mesh) {
  AXIAL_CHECK(stages.ranks == pipe_degree(mesh) && static_cast<int64_t>(names.size()) == stages.num_blocks(),
              kOp, "stages of {} ranks and {} blocks; expected {} and {}", stages.ranks, stages.num_blocks(),
              pipe_degree(mesh), names.size());
  if (stages.ranks == 1) return;
  std::map<const Parameter*, std::set<int64_t>> holders;
  for (size_t b = 0; b < names.size(); ++b) {
    for (const std::string& name : names[b]) {
      holders[&parameters.at(name)].insert(stages.rank_of_block(static_cast<int64_t>(b)));
    }
  }
  const int64_t here = mesh.coordinate(kPipeAxis);
  for (const auto& row : parameters.rows()) {
    AXIAL_CHECK(!row->value.defined(), kOp,
                "parameter '{}' has a value already; expected a table that is not materialised",
                row->spec.name);
    AXIAL_CHECK(!row->spec.shape.empty(), kOp,
                "parameter '{}'; expected one with dims, which some ranks hold nothing of, got a scalar",
                row->spec.name);
    std::set<int64_t>& ranks = holders[row.get()];
    if (ranks.empty()) ranks.insert(stages.rank_of(stages.size() - 1));
    row->stage_ranks.assign(ranks.begin(), ranks.end());
    row->sharded_axes.emplace_back(kPipeAxis);
    if (!ranks.contains(here)) {
      row->holding.slices[0].clear();
      row->holding.flat_begin = row->holding.flat_end = 0;
      row->shared_rows.clear();
    } else if (ranks.size() > 1) {
      row->shared_rows = shared_by_stages(*row, static_cast<int64_t>(ranks.size()));
    }
  }
}

}  // namespace axial::parallel
