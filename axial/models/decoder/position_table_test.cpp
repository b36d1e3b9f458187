// SPDX-License-Identifier: Apache-2.0
// A learned table of positions that is cut over the ranks of a sequence: embeddings, losses and gradients are
// those of one rank for every split, and where rows are one record nothing of the table is sent.
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/models/common/parallelize.h"
#include "axial/models/decoder/parallelize.h"
#include "axial/models/decoder/sequence_case.h"
#include "axial/parallel/collectives/rows.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::models {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::Communicator;
using parallel::Mesh;
using parallel::NamedTensors;
using parallel::SequenceLayout;
using parallel::World;

constexpr int64_t kHidden = 8;
constexpr int64_t kRowLength = 13;

nlohmann::json settings(int64_t max_positions) {
  return {{"vocab_size", 13}, {"hidden_size", kHidden},         {"num_layers", 1},       {"num_heads", 4},
          {"ffn_size", 12},   {"max_positions", max_positions}, {"position", "learned"}, {"init_std", 0.3}};
}

// The second row ends early: its padding has positions too.
std::vector<parallel::PackedRow> rows_of(bool packed, int64_t length) {
  std::vector<parallel::PackedRow> rows(2);
  for (int64_t i = 0; i < length; ++i) {
    rows[0].tokens.push_back((i * 5 + 3) % 13);
    if (i + 3 < length || i == 0) rows[1].tokens.push_back((i * i + 1) % 13);
  }
  rows[0].record_starts = rows[1].record_starts = {0};
  if (packed && length > 6) rows[0].record_starts = {0, 3, 6};
  rows[1].sample_id = 1;
  return rows;
}

struct Split {
  int64_t ring = 1, ulysses = 1, max_positions = kRowLength, length = kRowLength;
  bool packed = false;
  int64_t run_length = 0;  // of the rows that are run, where others than those it was cut for; 0: the same
};

std::string name_of(const Split& s) {
  return fmt::format("ring {} ulysses {}, {} of {} positions{}, run with {}", s.ring, s.ulysses, s.length,
                     s.max_positions, s.packed ? ", packed" : "", s.run_length);
}

// What a step made: the first block's stream of whole rows [B, N, C], the loss, whole gradients.
struct Made {
  at::Tensor embedded;
  double loss = 0;
  std::map<std::string, at::Tensor> grads;
};

Made run(const Split& s, Communicator* ranks) {
  const int64_t length = s.run_length > 0 ? s.run_length : s.length;
  const Mesh mesh = ranks ? ranks->mesh() : Mesh::single();
  const ModelRegistry registry = all_models();
  Model model = registry.at("decoder").build(settings(s.max_positions));
  parallelize(model, registry, mesh, {}, s.length);
  if (ranks) parallel::partition_parameters(*model.parameters, mesh, 0);
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  const auto layout = SequenceLayout::over(mesh, length);
  const NamedTensors batch = layout.make_batch(rows_of(s.packed, length), 0);
  parallel::StepContext context{root_key(5), true, nullptr};
  context.sequence = &layout;
  Made made;
  parallel::StepRunner first({model.trunk[0]}, *model.parameters, model.batch_names, ranks);
  made.embedded = first.infer(batch, context, {"hidden"}).at("hidden");
  if (ranks) made.embedded = parallel::whole_rows(made.embedded, 1, layout, *ranks);
  parallel::StepRunner runner = model.runner_with("loss", ranks);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {});
  at::Tensor loss = runner.train(plan, {batch}, context, 0.25).loss_sums[0];
  if (ranks) loss = ranks->all_reduce(loss, mesh.sequence_axes(), parallel::ReduceOp::kSum);
  made.loss = loss.item<double>();
  for (const auto& row : model.parameters->rows()) {
    if (row->holding.is_whole(row->spec.shape)) {
      made.grads[row->spec.name] = row->grad;
      continue;
    }
    at::Tensor whole = at::zeros(row->spec.shape, at::kDouble);
    row->holding.write_into(whole, row->grad);
    made.grads[row->spec.name] = ranks->all_reduce(whole, row->sharded_axes, parallel::ReduceOp::kSum);
  }
  return made;
}

double distance(const at::Tensor& got, const at::Tensor& expected) {
  return (got - expected).abs().max().item<double>() / expected.abs().max().item<double>();
}

void compare(World& world, const Split& s) {
  const auto ranks = world.make_communicator(
      Mesh({{"data", 1}, {"pipe", 1}, {"ring", s.ring}, {"ulysses", s.ulysses}, {"tensor", 1}}, world.size(),
           world.rank()));
  const Made many = run(s, ranks.get()), one = run(s, nullptr);
  require(std::abs(many.loss / one.loss - 1) <= 1e-9, name_of(s) + ": another loss");
  for (const auto& [name, grad] : one.grads) {
    require(distance(many.grads.at(name), grad) <= 1e-9, name_of(s) + ": another gradient of " + name);
  }
  const auto rows = rows_of(s.packed, s.run_length > 0 ? s.run_length : s.length);
  for (size_t r = 0; r < rows.size(); ++r) {  // not of padding
    const auto b = static_cast<int64_t>(r), used = static_cast<int64_t>(rows[r].tokens.size());
    require(many.embedded[b].narrow(0, 0, used).equal(one.embedded[b].narrow(0, 0, used)),
            name_of(s) + ": other embeddings");
  }
}

void compare_all(World& world, int64_t ring, int64_t ulysses) {
  for (const bool packed : {false, true}) {
    for (const int64_t max_positions : {kRowLength, kRowLength + 8}) {
      compare(world, {ring, ulysses, max_positions, kRowLength, packed});
      compare(world, {ring, ulysses, max_positions, kRowLength, packed, 9});
    }
  }
  compare(world, {ring, ulysses, 2, 2});   // fewer places than ranks
  compare(world, {ring, ulysses, 16, 2});  // likewise, and all ranks hold something
}

TEST(PositionTable, TwoRanksAreOne) {
  EXPECT_EQ(failures(run_ranks(2,
                               [](World& world) {
                                 compare_all(world, 2, 1);
                                 compare_all(world, 1, 2);
                               })),
            "");
}

TEST(PositionTable, FourRanksAreOne) {
  EXPECT_EQ(failures(run_ranks(4,
                               [](World& world) {
                                 compare_all(world, 4, 1);
                                 compare_all(world, 1, 4);
                                 compare_all(world, 2, 2);
                               })),
            "");
}

// What rank 1 of two along `ring` sends in a step over the ring's axes, by op, without attention's messages.
std::map<std::string, int64_t> bytes_of(bool shards, bool packed) {
  const Mesh mesh({{"data", 2}, {"ring", 2}}, 4, 1);
  Communicator ranks(mesh, parallel::make_recording_transport(), nullptr, {});
  const ModelRegistry registry = all_models();
  Model model = registry.at("decoder").build(settings(kRowLength + 1));
  parallelize(model, registry, mesh, {}, shards ? kRowLength + 1 : 0);
  parallel::partition_parameters(*model.parameters, mesh, 0);
  model.parameters->materialize(at::kCPU, at::kDouble, 11);
  const auto layout = SequenceLayout::over(mesh, kRowLength + 1);
  parallel::StepRunner runner = model.runner_with("loss", &ranks);
  runner.set_sequence(layout);
  const auto plan = parallel::write_training_step(static_cast<int64_t>(runner.blocks().size()), 1, {});
  runner.train(plan, {layout.make_batch(rows_of(packed, kRowLength + 1), 0)},
               parallel::StepContext{root_key(5), true, nullptr}, 1.0);
  std::map<std::string, int64_t> bytes;
  for (const auto& [key, traffic] : ranks.traffic()) {
    if (key.second != "send" && key.second != "control") bytes[key.first + " " + key.second] = traffic.bytes;
  }
  return bytes;
}

TEST(PositionTable, RowsOfOneRecordSendNothingOfIt) {
  const int64_t table = (kRowLength + 1) * kHidden * 8;
  const auto whole = bytes_of(false, false), cut = bytes_of(true, false), packed = bytes_of(true, true);
  // Of all gradients but the table's 2 * 3 / 4 of the bytes; of a half of it 2 * 1 / 2, over data alone.
  EXPECT_EQ(cut.at("data+ring all_reduce"), whole.at("data+ring all_reduce") - table * 3 / 2);
  EXPECT_EQ(cut.at("data all_reduce"), table / 2);
  for (const char* op : {"ring all_gather", "ring reduce_scatter", "ring all_reduce"}) {
    EXPECT_FALSE(cut.contains(op)) << op;
  }
  EXPECT_EQ(cut.size(), whole.size() + 1);
  // Records inside of rows: the table to everybody, and its gradient back to its owners.
  EXPECT_EQ(packed.at("ring all_gather"), table / 2);
  EXPECT_EQ(packed.at("ring reduce_scatter"), table / 2);
  EXPECT_EQ(packed.at("data all_reduce"), cut.at("data all_reduce"));
}

TEST(PositionTable, HoldsTheRowsOfItsPlaces) {
  const Mesh mesh({{"data", 1}, {"ring", 2}, {"ulysses", 2}}, 4, 2);  // the second ring rank's first half
  Model model = all_models().at("decoder").build(settings(24));
  parallelize(model, all_models(), mesh, {}, 16);
  const parallel::Parameter& row = model.parameters->at(kPositionTable);
  const auto places = SequenceLayout::over(mesh, 16).row_positions();
  EXPECT_EQ(places.numel(), 4);
  EXPECT_EQ(row.holding.sliced_shape(), (std::vector<int64_t>{4 + 2, kHidden}));
  EXPECT_EQ(row.holding.slices[0].front().begin, places[0].item<int64_t>());
  EXPECT_EQ(row.sharded_axes, (parallel::Axes{"ring", "ulysses"}));
}

TEST(PositionTable, RowsLongerThanTheTableAreRefused) {
  const Mesh mesh({{"data", 1}, {"ring", 2}}, 2, 0);
  Model model = all_models().at("decoder").build(settings(8));
  try {
    parallelize(model, all_models(), mesh, {}, 9);
    FAIL() << "a table of 8 rows was cut for rows of 9 places";
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("rows of 9 places; expected at most the 8 rows"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace axial::models
