// SPDX-License-Identifier: Apache-2.0
// What a plan says of a step against the step itself on real ranks: the peak of its tensors within a
// hundredth, what it sends to the byte. AXIAL_PLAN_TABLE names a file for the table.
#include "axial/train/plan/plan_step.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "axial/models/common/parallelize.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::train {
namespace {

using axial::testing::failures;
using axial::testing::require;
using parallel::Mesh;
using parallel::MeshOptions;
using parallel::OffloadTo;
using parallel::SequenceLayout;
using parallel::World;

constexpr int64_t kLength = 95;

struct Case {
  MeshOptions mesh;
  int64_t recompute = 0;
  bool keep_attention = false;
  Precision precision = Precision::kFp32;
  int64_t batch = 6;
  bool tied = false;
  int64_t head_groups = 1;
  int64_t tile_tokens = 0;
  bool learned = false;  // positions, of a table that ranks of the sequence share
  bool bits = false;     // a mask in one bit a pair
  OffloadTo away = OffloadTo::kNone;  // parameters (with ZeRO-3), states and checkpoints (of recomputes)
  bool partition = false;
};

std::string offload_of(const Case& c) {
  if (c.away == OffloadTo::kNone) return "";
  return std::string(c.mesh.zero == 3 ? ", all" : ", states") + " in " +
         (c.away == OffloadTo::kFile ? "a file" : "the host");
}

std::string name_of(const Case& c) {
  const MeshOptions& m = c.mesh;
  return fmt::format(
      "data {} pipe {} ring {} ulysses {} tensor {}{} | {} | {}{} | {}", m.data, m.pipe, m.ring, m.ulysses,
      m.tensor,
      fmt::format("{}{}{}{}{}", c.learned ? ", learned positions" : "", c.bits ? ", mask in bits" : "",
                  m.sequence_regions ? ", regions" : "",
                  m.stages_per_rank > 1 ? fmt::format(", {} stages a rank", m.stages_per_rank) : "",
                  m.pipe_schedule == parallel::PipeSchedule::kGPipe ? ", GPipe" : ""),
      m.zero, c.recompute,
      fmt::format("{}{}{}{}{}", c.keep_attention ? ", attention kept" : "",
                  c.head_groups > 1 ? fmt::format(", heads in {}", c.head_groups) : "",
                  c.tile_tokens > 0 ? fmt::format(", tiles of {}", c.tile_tokens) : "", offload_of(c),
                  c.partition ? ", parts" : ""),
      c.precision == Precision::kBf16 ? "bf16" : "fp32");
}

// Real rows of two records, with padding in some; where a ring goes round of one: it passes over pieces that
// no query sees, which a plan cannot know.
data::Batch rows_of(const SequenceLayout& layout, int64_t first, int64_t count) {
  const bool ring = layout.ring().num_ranks() > 1;
  std::vector<parallel::PackedRow> rows;
  data::Batch batch;
  for (int64_t r = first; r < first + count; ++r) {
    parallel::PackedRow row;
    for (int64_t i = 0; i < kLength - (ring ? 0 : r % 3); ++i) row.tokens.push_back((r * 7 + i * i) % 69);
    row.record_starts = {0};
    if (!ring) row.record_starts.push_back(30 + r);
    row.sample_id = r;
    batch.num_tokens += static_cast<int64_t>(row.tokens.size());
    rows.push_back(std::move(row));
  }
  batch.tensors = layout.make_batch(rows, 3);
  batch.weight = static_cast<double>(parallel::count_labels(rows));
  return batch;
}

StepToPlan step_of(const Case& c, int64_t world_size, const models::ModelRegistry& registry) {
  StepToPlan what;
  nlohmann::json mask = nlohmann::json::object();
  if (c.bits) mask = {{"window", 8}, {"global", {0, 40}}, {"host_tokens", kLength - 1}};
  what.build = [&registry, mask, tied = c.tied, learned = c.learned] {
    return registry.at("decoder").build({{"attention_mask", mask},
                                         {"position", learned ? "learned" : "rotary"},
                                         {"vocab_size", 69},
                                         {"hidden_size", 48},
                                         {"num_layers", 4},
                                         {"num_heads", 4},
                                         {"num_kv_heads", 2},
                                         {"ffn_size", 96},
                                         {"max_positions", 96},
                                         {"tied_embeddings", tied},
                                         {"residual_dropout", 0.1}});
  };
  what.registry = &registry;
  what.train.batch = c.batch;
  what.train.micro_batch = 2;
  what.train.precision = c.precision;
  what.train.recompute_group = c.recompute;
  what.train.keep_attention = c.keep_attention;
  what.train.attention_head_groups = c.head_groups;
  what.train.tile_tokens = c.tile_tokens;
  what.train.partition_activations = c.partition;
  what.train.offload_optimizer = c.away;
  if (c.recompute > 0) what.train.offload_checkpoints = c.away;
  if (c.mesh.zero == 3) what.train.offload_parameters = c.away;
  what.train.offload_folder = std::filesystem::temp_directory_path();
  what.train.schedule.warmup_steps = 0;
  what.parallel = c.mesh;
  what.world_size = world_size;
  what.row_length = kLength;
  what.rows = rows_of;
  return what;
}

struct Counted {
  int64_t peak = 0, resident = 0;
  ops::BytesByUse at_peak{};
  std::map<std::pair<std::string, std::string>, parallel::Traffic> traffic;
  parallel::OffloadBytes offloaded;
};

// Of each space: live, peak, and what a step copied into and from it.
std::vector<int64_t> numbers_of(const parallel::OffloadBytes& bytes) {
  return {bytes.host.live, bytes.host.peak, bytes.host.written, bytes.host.read,
          bytes.file.live, bytes.file.peak, bytes.file.written, bytes.file.read};
}

// The step itself, on the host.
Counted count_step(const StepToPlan& what, parallel::Communicator& ranks) {
  const Mesh& mesh = ranks.mesh();
  const auto layout = SequenceLayout::over(mesh, what.row_length);
  Counted out;
  ops::MemoryCount memory;
  models::Model model = what.build();
  models::parallelize(model, *what.registry, mesh, what.parallel,
                      what.train.sharded_row_length(what.row_length));
  TrainingStep step(model, what.train, at::kCPU, {&ranks, what.parallel, layout});
  out.resident = memory.live();
  ranks.clear_traffic();
  std::vector<data::Batch> batches;
  for (const parallel::Interval& rows : micro_batches_of(what.train, mesh, 0)) {
    batches.push_back(what.rows(layout, rows.begin, rows.size()));
  }
  const parallel::OffloadBytes before = step.offloaded();
  step.run(batches, 0);
  out.offloaded = step.offloaded();
  out.offloaded.host.written -= before.host.written;
  out.offloaded.host.read -= before.host.read;
  out.offloaded.file.written -= before.file.written;
  out.offloaded.file.read -= before.file.read;
  out.peak = memory.peak();
  out.at_peak = memory.at_peak();
  out.traffic = ranks.traffic();
  return out;
}

const RankPlan& plan_of(const std::vector<RankPlan>& plans, int64_t rank) {
  for (const RankPlan& plan : plans) {
    if (std::find(plan.ranks.begin(), plan.ranks.end(), rank) != plan.ranks.end()) return plan;
  }
  throw Error("no plan of rank " + std::to_string(rank));
}

std::string by_use(const ops::BytesByUse& bytes) {
  std::string text;
  for (size_t u = 0; u < ops::kMemoryUses; ++u) {
    if (bytes[u] > 0) text += fmt::format("{} {}; ", ops::name_of(static_cast<ops::MemoryUse>(u)), bytes[u]);
  }
  return text;
}

void report(const Case& c, const RankPlan& plan, const Counted& real) {
  const char* file = std::getenv("AXIAL_PLAN_TABLE");
  if (file == nullptr) return;
  const int64_t activations = plan.at_peak[static_cast<size_t>(ops::MemoryUse::kActivations)] +
                              plan.at_peak[static_cast<size_t>(ops::MemoryUse::kLogits)];
  std::ofstream(file, std::ios::app) << fmt::format(
      "| {} | {} | {} | {:.2f} % | {:.0f} % |\n", name_of(c), plan.peak_bytes, real.peak,
      100.0 * static_cast<double>(plan.peak_bytes - real.peak) / static_cast<double>(real.peak),
      100.0 * static_cast<double>(activations) / static_cast<double>(plan.peak_bytes));
}

void check(World& world, const Case& c) {
  const models::ModelRegistry registry = models::all_models();
  const StepToPlan what = step_of(c, world.size(), registry);
  const auto ranks = world.make_communicator(parallel::make_mesh(c.mesh, world.size(), world.rank()));
  const Counted real = count_step(what, *ranks);
  const std::vector<RankPlan> plans = plan_step(what);
  const RankPlan& plan = plan_of(plans, world.rank());
  const double off = static_cast<double>(plan.peak_bytes - real.peak) / static_cast<double>(real.peak);
  require(std::abs(off) <= 0.01,
          fmt::format("{}: planned peak {}, counted {}: {:.2f} % off; planned {}counted {}", name_of(c),
                      plan.peak_bytes, real.peak, 100 * off, by_use(plan.at_peak), by_use(real.at_peak)));
  require(plan.resident_bytes == real.resident, name_of(c) + ": other bytes before the step");
  for (const auto& [key, traffic] : real.traffic) {
    const auto found = plan.traffic.find(key);
    require(found != plan.traffic.end() && found->second == traffic,
            fmt::format("{}: {} over '{}': planned {} calls of {} bytes, counted {} of {}", name_of(c),
                        key.second, key.first, found == plan.traffic.end() ? 0 : found->second.calls,
                        found == plan.traffic.end() ? 0 : found->second.bytes, traffic.calls, traffic.bytes));
  }
  require(plan.traffic.size() == real.traffic.size(), name_of(c) + ": other calls");
  require(
      numbers_of(plan.offloaded) == numbers_of(real.offloaded),
      fmt::format("{}: planned outside of the device {}, counted {}", name_of(c),
                  fmt::join(numbers_of(plan.offloaded), " "), fmt::join(numbers_of(real.offloaded), " ")));
  if (world.rank() == 0) report(c, plan, real);
}

MeshOptions mesh(int64_t data, int64_t ring, int64_t ulysses, int64_t tensor, int64_t zero = 0,
                 bool regions = false) {
  return {data, 1, ring, ulysses, tensor, zero, regions};
}

MeshOptions piped(MeshOptions options, int64_t stages_per_rank = 1, bool gpipe = false) {
  options.pipe = 2;
  options.stages_per_rank = stages_per_rank;
  if (gpipe) options.pipe_schedule = parallel::PipeSchedule::kGPipe;
  return options;
}

std::string run(int64_t size, const std::vector<Case>& cases) {
  axial::testing::RanksOptions options;
  options.compare_calls = false;
  return failures(axial::testing::run_ranks(
      size,
      [&](World& world) {
        std::string failed;  // all cases are tried: ranks must not lose each other
        for (const Case& c : cases) {
          try {
            check(world, c);
          } catch (const parallel::CollectiveError&) {
            throw;
          } catch (const Error& error) {
            failed += fmt::format("\n  {}", error.what());
          }
        }
        require(failed.empty(), failed);
      },
      options));
}

constexpr Precision kBf16 = Precision::kBf16, kFp32 = Precision::kFp32;
constexpr OffloadTo kNone = OffloadTo::kNone, kHost = OffloadTo::kHost, kFile = OffloadTo::kFile;

TEST(PlanStep, OneRank) {
  EXPECT_EQ(run(1, {{mesh(1, 1, 1, 1)},
                    {mesh(1, 1, 1, 1), 1},
                    {mesh(1, 1, 1, 1), 2},
                    {mesh(1, 1, 1, 1), 2, true},
                    {mesh(1, 1, 1, 1), 0, false, kBf16},
                    {mesh(1, 1, 1, 1), 3, false, kBf16},
                    {mesh(1, 1, 1, 1), 0, false, kFp32, 2, true},
                    {mesh(1, 1, 1, 1), 1, true, kFp32, 6, false, 2},
                    {mesh(1, 1, 1, 1), 0, false, kFp32, 6, false, 1, 16},
                    {mesh(1, 1, 1, 1), 2, false, kBf16, 6, true, 1, 16},
                    {mesh(1, 1, 1, 1), 1, false, kFp32, 6, false, 1, 0, kHost},
                    {mesh(1, 1, 1, 1, 3), 1, false, kFp32, 6, false, 1, 0, kHost},
                    {mesh(1, 1, 1, 1, 3), 1, false, kBf16, 6, false, 1, 16, kFile},
                    {mesh(1, 1, 1, 1, 3), 2, true, kBf16, 6, true, 1, 0, kHost}}),
            "");
}

TEST(PlanStep, TwoRanks) {
  EXPECT_EQ(run(2, {{mesh(2, 1, 1, 1)},
                    {mesh(2, 1, 1, 1, 1)},
                    {mesh(2, 1, 1, 1, 2), 1},
                    {mesh(2, 1, 1, 1, 3)},
                    {mesh(2, 1, 1, 1, 3), 2, false, kBf16, 5},
                    {mesh(1, 2, 1, 1)},
                    {mesh(1, 2, 1, 1, 1), 2, true},
                    {mesh(1, 2, 1, 1, 3), 1, false, kBf16},
                    {mesh(1, 1, 2, 1)},
                    {mesh(1, 1, 2, 1, 2), 2},
                    {mesh(1, 1, 2, 1, 3), 2, true},
                    {mesh(1, 1, 2, 1), 1, true, kBf16},
                    {mesh(1, 1, 1, 2)},
                    {mesh(1, 1, 1, 2, 0, true)},
                    {mesh(1, 1, 1, 2, 0, true), 2},
                    {mesh(1, 1, 1, 2), 1, false, kBf16},
                    {mesh(1, 2, 1, 1, 3), 1, false, kFp32, 6, false, 2, 16},
                    {mesh(1, 1, 1, 2, 0, true), 1, false, kFp32, 6, false, 1, 16},
                    {piped(mesh(1, 1, 1, 1))},
                    {piped(mesh(1, 1, 1, 1), 2)},
                    {piped(mesh(1, 1, 1, 1), 1, true), 2},
                    {piped(mesh(1, 1, 1, 1), 2), 1, true, kBf16, 8, true},
                    {mesh(2, 1, 1, 1, 3), 1, false, kBf16, 6, false, 1, 0, kHost},
                    {mesh(1, 2, 1, 1, 3), 1, false, kFp32, 6, true, 1, 16, kFile},
                    {mesh(1, 1, 1, 2, 3, true), 1, false, kBf16, 6, false, 1, 0, kHost},
                    {piped(mesh(1, 1, 1, 1, 3)), 1, false, kFp32, 6, true, 1, 0, kHost},
                    {mesh(1, 1, 1, 2), 1, false, kFp32, 6, false, 1, 0, kNone, true},
                    {mesh(1, 1, 1, 2), 2, false, kBf16, 6, false, 1, 16, kHost, true}}),
            "");
}

TEST(PlanStep, FourRanks) {
  EXPECT_EQ(run(4, {{mesh(4, 1, 1, 1, 3), 1},
                    {mesh(1, 4, 1, 1)},
                    {mesh(1, 4, 1, 1, 3), 2},
                    {mesh(1, 4, 1, 1, 3), 2, false, kFp32, 6, false, 2},
                    {mesh(1, 2, 2, 1, 1), 1, true, kFp32, 6, false, 2},
                    {mesh(1, 1, 4, 1)},
                    {mesh(1, 1, 1, 4, 0, true)},
                    {mesh(2, 2, 1, 1, 3)},
                    {mesh(2, 2, 1, 1, 1), 2, false, kBf16},
                    {mesh(2, 1, 2, 1, 2)},
                    {mesh(2, 1, 1, 2, 3, true), 1},
                    {mesh(1, 2, 2, 1, 3)},
                    {mesh(1, 2, 2, 1, 3), 1, true, kBf16},
                    {mesh(1, 2, 1, 2, 1, true)},
                    {mesh(1, 1, 2, 2, 3)},
                    {mesh(1, 2, 1, 2, 3, true), 2, false, kBf16, 6, true, 1, 16},
                    {piped(mesh(2, 1, 1, 1, 3)), 1},
                    {piped(mesh(2, 1, 1, 1, 1), 2)},
                    {piped(mesh(1, 2, 1, 1))},
                    {piped(mesh(1, 1, 2, 1, 2), 1, true), 2},
                    {piped(mesh(1, 1, 1, 2, 0, true), 2), 1, false, kFp32, 6, true},
                    {mesh(2, 2, 1, 1, 3), 1, false, kBf16, 6, false, 1, 0, kHost},
                    {mesh(1, 1, 2, 2, 3, true), 2, false, kFp32, 6, false, 1, 16, kFile},
                    {mesh(1, 1, 1, 4), 1, false, kFp32, 6, false, 1, 0, kNone, true},
                    {mesh(2, 1, 1, 2, 3), 1, false, kFp32, 6, true, 1, 0, kHost, true},
                    {piped(mesh(1, 1, 1, 2)), 1, false, kFp32, 6, true, 1, 0, kNone, true}}),
            "");
}

// Rows of one record where a ring goes round, of two elsewhere: with the table at home, and sent to all.
Case learned(MeshOptions options, int64_t recompute = 0, Precision precision = kFp32) {
  return {.mesh = options, .recompute = recompute, .precision = precision, .learned = true};
}

TEST(PlanStep, TablesOfPositions) {
  EXPECT_EQ(run(2, {learned(mesh(1, 2, 1, 1)), learned(mesh(1, 2, 1, 1, 3), 1, kBf16),
                    learned(mesh(1, 1, 2, 1)), learned(mesh(1, 1, 2, 1, 1), 2)}),
            "");
}

TEST(PlanStep, MasksInBits) {
  EXPECT_EQ(run(2, {{.mesh = mesh(1, 1, 2, 1), .bits = true},
                    {.mesh = mesh(2, 1, 1, 1), .recompute = 1, .precision = kBf16, .bits = true}}),
            "");
}

TEST(PlanStep, TablesOfPositionsOverFour) {
  EXPECT_EQ(run(4, {learned(mesh(1, 4, 1, 1, 2)), learned(mesh(1, 2, 2, 1), 1, kBf16),
                    learned(mesh(1, 1, 4, 1, 3), 1), learned(mesh(2, 2, 1, 1, 3)),
                    learned(mesh(1, 2, 1, 2, 0, true), 1), learned(piped(mesh(1, 2, 1, 1)))}),
            "");
}

// Of a whole step of training, per rank of 4, by literal numbers: P parameters of fp32 are 4 P bytes, an
// all-reduce sends 2 * 3/4 of them, a gather or scatter 3/4; three micro-batches; control apart.
TEST(PlanStep, TrafficOfAWholeStep) {
  const models::ModelRegistry registry = models::all_models();
  using Sent = std::map<std::string, int64_t>;
  const auto sent = [&](int64_t zero) {
    StepToPlan what = step_of({mesh(4, 1, 1, 1, zero)}, 4, registry);
    what.train.batch = 24;
    const std::vector<RankPlan> plans = plan_step(what);
    EXPECT_EQ(plans.size(), 1U);
    EXPECT_EQ(plans[0].parameters, 73152);
    Sent out;
    for (const auto& [key, traffic] : plans[0].traffic) out[key.second] += traffic.bytes;
    return out;
  };
  static_assert(73152 * 4 * 3 / 4 == 219456);
  EXPECT_EQ(sent(0), (Sent{{"all_reduce", 2 * 219456}, {"control", 36}}));
  EXPECT_EQ(sent(1), (Sent{{"reduce_scatter", 219456}, {"all_gather", 219456}, {"control", 48}}));
  EXPECT_EQ(sent(2), (Sent{{"reduce_scatter", 3 * 219456}, {"all_gather", 219456}, {"control", 48}}));
  // Twice per micro-batch, but for what stays: the head (69 x 48) at each turn, the embedding (as large)
  // between micro-batches.
  const int64_t stays = (3 + 2) * 69 * 48 * 4 * 3 / 4;
  EXPECT_EQ(sent(3),
            (Sent{{"reduce_scatter", 3 * 219456}, {"all_gather", 6 * 219456 - stays}, {"control", 48}}));
}

TEST(PlanStep, NamesWhatDoesNotFit) {
  const models::ModelRegistry registry = models::all_models();
  const auto error_of = [&](const MeshOptions& options, int64_t world_size) -> std::string {
    try {
      plan_step(step_of({options}, world_size, registry));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(error_of(mesh(3, 1, 1, 1), 2), HasSubstr("expected the product of 2 ranks, got 3"));
  MeshOptions many = mesh(1, 1, 1, 1);
  many.pipe = 2;
  many.stages_per_rank = 9;
  EXPECT_THAT(error_of(many, 2), HasSubstr("as many stages as the model has blocks"));
  EXPECT_THROW(plan_step({}), ValueError);
}

}  // namespace
}  // namespace axial::train
