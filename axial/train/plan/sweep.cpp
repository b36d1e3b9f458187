// SPDX-License-Identifier: Apache-2.0
// Meshes in order of promise, a frugal plan each, then faster settings of the best.
#include "axial/train/plan/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"
#include "axial/data/tokenizer/tokenizer.h"
#include "axial/models/common/parallelize.h"
#include "axial/train/plan/switches.h"

namespace axial::train {

namespace {

using parallel::MeshOptions;

std::vector<std::string> settings_of(const RunRecipe& r) {
  const MeshOptions& m = r.parallel;
  std::vector<std::string> out;
  for (const auto& [name, degree] : {std::pair{"data", m.data},
                                     {"pipe", m.pipe},
                                     {"ring", m.ring},
                                     {"ulysses", m.ulysses},
                                     {"tensor", m.tensor}}) {
    out.push_back(fmt::format("parallel.{}={}", name, degree));
  }
  for (const Switch& s : memory_switches()) {
    if (s.swept && !s.values(r).empty()) out.push_back(s.with(s.get(r)));
  }
  return out;
}

class Sweeper {
 public:
  Sweeper(const RunRecipe& recipe, const models::ModelRegistry& registry, int64_t world_size,
          const Device& device, const SweepOptions& options)
      : recipe_(recipe),
        registry_(registry),
        tokenizer_(data::make_tokenizer(recipe.data.tokenizer)),
        world_size_(world_size),
        device_(device),
        options_(options) {}

  SweepResult run() {
    std::vector<RunRecipe> tried;
    for (const MeshOptions& mesh : meshes_of(world_size_, recipe_.parallel)) {
      ++result_.meshes;
      RunRecipe recipe = recipe_;
      recipe.parallel = mesh;
      recipe = most_frugal(recipe);
      if (!refused_cheaply(recipe)) tried.push_back(std::move(recipe));
    }
    std::stable_sort(tried.begin(), tried.end(), [&](const RunRecipe& a, const RunRecipe& b) {
      return burden_of(a.parallel) < burden_of(b.parallel);
    });
    total_ = std::min(options_.limit, static_cast<int64_t>(tried.size()) + kRefining * options_.best);
    // Some plans are kept for settings of the best.
    const int64_t first = std::max<int64_t>(options_.limit - kRefining * std::min<int64_t>(options_.best, 3),
                                            (options_.limit + 1) / 2);
    for (const RunRecipe& recipe : tried) {
      if (result_.planned >= first) {
        ++result_.left_out;
        continue;
      }
      try_mesh(recipe);
    }
    result_.fitting = static_cast<int64_t>(result_.best.size());
    sort_best();
    for (SweepEntry& entry : result_.best) refine(entry);
    sort_best();
    std::stable_sort(result_.refused.begin(), result_.refused.end(),
                     [](const SweepRefusal& a, const SweepRefusal& b) { return a.count > b.count; });
    return std::move(result_);
  }

 private:
  static constexpr int64_t kRefining = 6;  // plans that a mesh's settings take, about

  void refuse(const std::string& reason, int64_t missing = 0) {
    for (SweepRefusal& known : result_.refused) {
      if (known.reason != reason) continue;
      ++known.count;
      known.least_missing_bytes = std::min(known.least_missing_bytes, missing);
      return;
    }
    result_.refused.push_back({reason, 1, missing});
  }

  bool refused_cheaply(const RunRecipe& recipe) {
    const MeshOptions& mesh = recipe.parallel;
    const int64_t parts = mesh.ring * mesh.ulysses, rows = recipe.train.batch;
    if (mesh.data > rows) {
      refuse(fmt::format("train.batch: {} rows have none for some ranks of data", rows));
    } else if (parts > recipe.data.sequence_length) {
      refuse(fmt::format("data.sequence_length: {} tokens have none for some ranks of ring and ulysses",
                         recipe.data.sequence_length));
    } else {
      try {
        const int64_t missing = least_missing(recipe);
        if (missing <= 0) return false;
        refuse("weights, gradients and moments alone do not fit", missing);
      } catch (const ValueError& error) {
        refuse(error.what());
      }
    }
    return true;
  }

  // Bytes that weights, gradients and moments of the first rank lack; below 0: they leave these.
  int64_t least_missing(const RunRecipe& recipe) const {
    models::Model model = build_model(recipe, registry_, *tokenizer_);
    models::parallelize(model, registry_, parallel::make_mesh(recipe.parallel, world_size_, 0),
                        recipe.parallel);
    const auto it = model.config.find("num_heads");
    const MeshOptions& m = recipe.parallel;
    if (it != model.config.end() && it->is_number_integer()) {
      AXIAL_CHECK(m.tensor * m.ulysses <= it->get<int64_t>(), "sweep",
                  "num_heads: {} heads have none for some ranks of tensor and ulysses", it->get<int64_t>());
    }
    double elements = 0;
    for (const auto& row : model.parameters->rows()) {
      double held = 1;
      for (const int64_t size : row->holding.sliced_shape()) held *= static_cast<double>(size);
      elements += held;
    }
    const auto sharers = static_cast<double>(m.data * m.ring * m.ulysses);
    const auto width = static_cast<double>(c10::elementSize(scalar_type_of(recipe.train.precision)));
    const auto of = [&](double bytes, int64_t stage) { return m.zero >= stage ? bytes / sharers : bytes; };
    const auto stays = [](parallel::OffloadTo to) { return to == parallel::OffloadTo::kNone ? 1.0 : 0.0; };
    // Of 16 bits: two moments and a copy in fp32.
    const double moments = (width == 2 ? 12 : 2 * width) * stays(recipe.train.offload_optimizer);
    const double values = stays(recipe.train.offload_parameters);  // and gradients
    const double bytes = elements * (values * (of(width, 3) + of(width, 2)) + of(moments, 1));
    return static_cast<int64_t>(bytes) + device_.context - device_.memory;
  }

  // What is sent where it is slow, roughly: an order to try, no result depends on it but by the limit.
  double burden_of(const MeshOptions& m) const {
    const int64_t machine = device_.per_machine;
    double burden = 0.5 * std::log2(static_cast<double>(m.tensor));
    if (m.tensor > machine) burden += 8;
    if (m.ulysses > 1 && m.tensor * m.ulysses > machine) burden += 4;
    burden += 0.1 * std::log2(static_cast<double>(m.ring));  // passes all keys on, ulysses a part
    const auto rows = static_cast<double>(recipe_.train.batch / std::max<int64_t>(m.data, 1));
    const double micro_batches = std::ceil(rows / static_cast<double>(recipe_.train.micro_batch));
    const auto waits = static_cast<double>(m.pipe - 1);
    return burden + 8 * waits / (micro_batches + waits);
  }

  std::optional<SweepEntry> plan(const RunRecipe& recipe, std::string* why, int64_t* missing) {
    SweepEntry entry{recipe, settings_of(recipe), {}, 0, 0};
    if (options_.on_plan) {
      options_.on_plan(result_.planned, total_, fmt::format("{}", fmt::join(entry.settings, " ")));
    }
    ++result_.planned;
    try {
      const Plan plan = options_.planning ? options_.planning(recipe)
                                          : plan_recipe(recipe, registry_, world_size_, device_);
      entry.estimate = estimate(plan, options_.assumptions);
      entry.needed_bytes = plan.largest().needed_bytes();
      entry.spare_bytes = plan.spare_bytes();
      if (plan.fits()) return entry;
      *why = "does not fit, whatever saves memory";
      *missing = std::max<int64_t>(-entry.spare_bytes, 0);
    } catch (const ValueError& error) {
      *why = error.what();
    }
    return std::nullopt;
  }

  void try_mesh(const RunRecipe& recipe) {
    std::string why;
    int64_t missing = 0;
    if (auto entry = plan(recipe, &why, &missing)) {
      result_.best.push_back(std::move(*entry));
    } else {
      refuse(why, missing);
    }
  }

  // One switch after the other, from the fastest value on.
  void refine(SweepEntry& entry) {
    std::string why;
    int64_t missing = 0;
    for (const Switch& s : memory_switches()) {
      if (!s.swept) continue;
      for (const int64_t value : s.values(entry.recipe)) {
        if (value == s.get(entry.recipe) || result_.planned >= options_.limit) break;
        RunRecipe faster = entry.recipe;
        s.set(faster, value);
        if (least_missing(faster) > 0) continue;
        auto found = plan(faster, &why, &missing);
        if (!found) continue;
        if (found->estimate.longest_s < entry.estimate.longest_s) entry = std::move(*found);
        break;
      }
    }
  }

  void sort_best() {
    std::stable_sort(result_.best.begin(), result_.best.end(), [](const SweepEntry& a, const SweepEntry& b) {
      return std::pair(a.estimate.longest_s, -a.spare_bytes) <
             std::pair(b.estimate.longest_s, -b.spare_bytes);
    });
    if (static_cast<int64_t>(result_.best.size()) > options_.best) {
      result_.best.resize(static_cast<size_t>(options_.best));
    }
  }

  const RunRecipe& recipe_;
  const models::ModelRegistry& registry_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  int64_t world_size_;
  const Device& device_;
  const SweepOptions& options_;
  int64_t total_ = 0;
  SweepResult result_;
};

}  // namespace

std::vector<MeshOptions> meshes_of(int64_t world_size, const MeshOptions& rest) {
  std::vector<int64_t> degrees;
  for (int64_t d = 1; d <= world_size; ++d) {
    if (world_size % d == 0) degrees.push_back(d);
  }
  std::vector<MeshOptions> out;
  for (const int64_t tensor : degrees) {
    for (const int64_t ulysses : degrees) {
      if (world_size / tensor % ulysses != 0) continue;
      for (const int64_t ring : degrees) {
        if (world_size / tensor / ulysses % ring != 0) continue;
        for (const int64_t pipe : degrees) {
          if (world_size / tensor / ulysses / ring % pipe != 0) continue;
          MeshOptions mesh = rest;
          mesh.data = world_size / tensor / ulysses / ring / pipe;
          mesh.pipe = pipe;
          mesh.ring = ring;
          mesh.ulysses = ulysses;
          mesh.tensor = tensor;
          mesh.sequence_regions = tensor > 1;
          if (pipe == 1) {
            mesh.stages_per_rank = 1;
            mesh.pipe_schedule = parallel::PipeSchedule::kOneForwardOneBackward;
          }
          out.push_back(mesh);
        }
      }
    }
  }
  return out;
}

SweepResult sweep(const RunRecipe& recipe, const models::ModelRegistry& registry, int64_t world_size,
                  const Device& device, const SweepOptions& options) {
  AXIAL_CHECK(options.limit >= 1 && options.best >= 1, "plan",
              "limit and number of results of a sweep; expected at least 1, got {} and {}", options.limit,
              options.best);
  return Sweeper(recipe, registry, world_size, device, options).run();
}

}  // namespace axial::train
