// SPDX-License-Identifier: Apache-2.0
// A planned step beside what the operating system says that its process took: the most resident memory
// (VmHWM) of a rank above what it had before. AXIAL_PLAN_SYSTEM names a file for a row of the table, of a
// large step.
#include <gtest/gtest.h>
#include <malloc.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

#include "axial/testing/ranks/ranks.h"
#include "axial/train/plan/plan_check.h"

namespace axial::train {
namespace {

using parallel::MeshOptions;
using parallel::SequenceLayout;
using testing::require;

constexpr double kMiB = 1 << 20;

struct Size {
  int64_t hidden, layers, length;
};

// Of /proc/self/status, in MiB.
double status(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) / 1024;
  }
  throw Error("no " + key + " in /proc/self/status");
}

// VmHWM starts again at what is resident now.
void reset_most_resident() { std::ofstream("/proc/self/clear_refs") << "5"; }

StepToPlan step_of(const Size& size, const MeshOptions& mesh, int64_t world_size,
                   const models::ModelRegistry& registry) {
  StepToPlan what = testing::step_of({.mesh = mesh, .batch = 1, .micro_batch = 1}, world_size, registry);
  what.build = [&registry, size] {
    return registry.at("decoder").build({{"vocab_size", 69},
                                         {"hidden_size", size.hidden},
                                         {"num_layers", size.layers},
                                         {"num_heads", 8},
                                         {"max_positions", size.length}});
  };
  what.row_length = size.length;
  what.rows = [size](const SequenceLayout& layout, int64_t first, int64_t count) {
    std::vector<parallel::PackedRow> rows(static_cast<size_t>(count));
    for (parallel::PackedRow& row : rows) {
      for (int64_t i = 0; i < size.length; ++i) row.tokens.push_back((i * i + i / 3) % 69);
      row.record_starts = {0};
      row.sample_id = first++;
    }
    data::Batch batch;
    batch.num_tokens = count * size.length;
    batch.tensors = layout.make_batch(rows, 3);
    batch.weight = static_cast<double>(parallel::count_labels(rows));
    return batch;
  };
  return what;
}

struct Measured {
  double before = 0, most = 0, planned = 0, counted = 0;  // MiB
  double grew() const { return most - before; }
};

Measured measure(parallel::World& world, const Size& size, const MeshOptions& mesh) {
  const models::ModelRegistry registry = models::all_models();
  const StepToPlan what = step_of(size, mesh, world.size(), registry);
  const auto ranks = world.make_communicator(parallel::make_mesh(mesh, world.size(), world.rank()));
  Measured out;
  out.planned = static_cast<double>(testing::plan_of(plan_step(what), world.rank()).peak_bytes) / kMiB;
  malloc_trim(0);
  reset_most_resident();
  out.before = status("VmRSS");
  out.counted = static_cast<double>(testing::count_step(what, *ranks).peak) / kMiB;
  out.most = status("VmHWM");
  return out;
}

std::string run(const Size& size, const MeshOptions& mesh, const char* file) {
  axial::testing::RanksOptions options;
  if (file != nullptr) options.limit = options.collective_timeout = std::chrono::minutes(30);
  const auto body = [&](parallel::World& world) {
    // Every tensor of more than a page or so is then a mapping of its own, gone when it is freed.
    mallopt(M_MMAP_THRESHOLD, 1 << 16);
    measure(world, {size.hidden, 1, 256}, mesh);  // libraries' code, threads and buffers
    const Measured m = measure(world, size, mesh);
    require(m.planned == m.counted, fmt::format("planned {} MiB, counted {}", m.planned, m.counted));
    const double off = m.grew() / m.planned - 1;
    if (file != nullptr && world.rank() == 0) {
      std::ofstream(file) << fmt::format("| {:.1f} | {:.1f} | {:.1f} | {:.1f} | {:.1f} | {:+.2f} % |\n",
                                         m.planned, m.counted, m.before, m.most, m.grew(), 100 * off);
    }
    require(off > -0.01 && m.grew() - m.planned < 0.03 * m.planned + 8,
            fmt::format("planned {:.1f} MiB; the process grew by {:.1f}", m.planned, m.grew()));
  };
  return axial::testing::failures(axial::testing::run_ranks(2, body, options));
}

TEST(PlanSystem, AProcessGrowsByWhatIsPlanned) {
  const char* file = std::getenv("AXIAL_PLAN_SYSTEM");
  const MeshOptions mesh = testing::mesh(1, 1, 1, 2, 0, true);
  const Size size = file == nullptr ? Size{256, 4, 2048} : Size{512, 8, 16384};
  EXPECT_EQ(run(size, mesh, file), "");
}

}  // namespace
}  // namespace axial::train
