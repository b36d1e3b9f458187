// SPDX-License-Identifier: Apache-2.0
// Batches made whole and made in parts must be the same batch; every label is checked against the record.
#include "axial/parallel/layout/sequence_layout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"

namespace axial::parallel {
namespace {

std::vector<int64_t> values(const at::Tensor& t) {
  const at::Tensor flat = t.contiguous().flatten();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

std::vector<PackedRow> sample_rows() {
  return {PackedRow{{5, 6, 7, 8, 9}, {0, 3}, -1, 40}, PackedRow{{1, 2, 3, 4, 5, 6, 7}, {0}, 11, 41},
          PackedRow{{}, {}, -1, 42}};
}

// What a plan runs on has the names, dtypes and shapes of a batch.
TEST(SequenceLayout, DescribesABatch) {
  for (const auto& [ring, ulysses] : {std::pair{1, 1}, {1, 3}, {3, 1}, {2, 2}}) {
    for (int64_t rank = 0; rank < ring * ulysses; ++rank) {
      const auto layout =
          SequenceLayout::over(Mesh({{"ring", ring}, {"ulysses", ulysses}}, ring * ulysses, rank), 13);
      const PackedRow row{std::vector<int64_t>(13, 1), {0}, 2, 0};
      const NamedTensors batch = layout.make_batch({row, row}, 0), described = layout.describe_batch(2);
      ASSERT_EQ(described.size(), batch.size());
      for (const auto& [name, tensor] : batch) {
        EXPECT_TRUE(described.at(name).is_meta());
        EXPECT_EQ(described.at(name).scalar_type(), tensor.scalar_type()) << name;
        EXPECT_EQ(described.at(name).sizes(), tensor.sizes()) << name << " of rank " << rank;
      }
    }
  }
  EXPECT_EQ(SequenceLayout::whole(7).describe_batch(3, 4).at("segments").size(0), 13);
}

TEST(SequenceLayout, WritesTheBatchByHand) {
  const NamedTensors batch = SequenceLayout::whole(7).make_batch(sample_rows(), 0);
  using V = std::vector<int64_t>;
  EXPECT_EQ(values(batch.at("tokens")[0]), (V{5, 6, 7, 8, 9, 0, 0}));
  EXPECT_EQ(values(batch.at("labels")[0]), (V{6, 7, -100, 9, -100, -100, -100}));
  EXPECT_EQ(values(batch.at("positions")[0]), (V{0, 1, 2, 0, 1, 0, 1}));
  EXPECT_EQ(values(batch.at("labels")[1]), (V{2, 3, 4, 5, 6, 7, 11}));
  EXPECT_EQ(values(batch.at("labels")[2]), (V(7, -100)));
  EXPECT_EQ(values(batch.at("segments")), (V{0, 3, 5, 7, 14, 21}));
  EXPECT_EQ(values(batch.at("sample_ids")), (V{40, 41, 42}));
  EXPECT_EQ(values(batch.at("row_positions")), (V{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values(batch.at("record_starts")[0]), (V{0, 0, 0, 3, 3, 5, 5}));
  EXPECT_EQ(values(batch.at("record_starts")[1]), (V{0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(count_labels(sample_rows()), at::sum(batch.at("labels") != kIgnoredLabel).item<int64_t>());
}

std::vector<PackedRow> random_rows(int64_t length, int64_t count, RngKey key) {
  std::vector<PackedRow> rows;
  for (int64_t r = 0; r < count; ++r) {
    const RngKey k = key.child(static_cast<uint64_t>(r));
    PackedRow row;
    const auto used = random_below(k, 0, static_cast<uint64_t>(length) + 1);
    for (uint64_t i = 0; i < used; ++i) {
      row.tokens.push_back(static_cast<int64_t>(random_below(k, 100 + i, 90)) + 1);
      if (i == 0 || random_below(k, 1000 + i, 4) == 0) row.record_starts.push_back(static_cast<int64_t>(i));
    }
    if (used > 0 && random_below(k, 1, 2) == 0) row.next_token = 99;
    row.sample_id = r;
    rows.push_back(row);
  }
  return rows;
}

// A split batch joined again is the whole batch: labels were shifted before the cut.
TEST(SequenceLayout, SplitBatchesJoinToTheWhole) {
  for (const int64_t length : {4, 9, 16}) {
    for (const int64_t ranks : {1, 2, 3, 4}) {
      const std::vector<PackedRow> rows =
          random_rows(length, 5, root_key(7).child(static_cast<uint64_t>(length)));
      const NamedTensors whole = SequenceLayout::whole(length).make_batch(rows, 0);
      const int64_t padded = (length + 2 * ranks - 1) / (2 * ranks) * 2 * ranks;
      for (const DimLayout& dim : {DimLayout::contiguous(length, ranks), DimLayout::zigzag(length, ranks),
                                   DimLayout::zigzag(padded, ranks).with_logical_size(length)}) {
        std::map<std::string, std::vector<at::Tensor>> pieces;
        for (int64_t r = 0; r < ranks; ++r) {
          const SequenceLayout layout(dim, r);
          const NamedTensors batch = layout.make_batch(rows, 0);
          for (const char* name : {"tokens", "labels", "positions"}) pieces[name].push_back(batch.at(name));
          ASSERT_EQ(batch.at("row_positions").size(0), layout.local_length());
          for (int64_t l = 0; l < layout.local_length(); ++l) {
            EXPECT_EQ(batch.at("row_positions")[l].item<int64_t>(), dim.global_index(r, l));
          }
        }
        EXPECT_TRUE(at::equal(dim.assemble(pieces["tokens"], 1), whole.at("tokens")));
        EXPECT_TRUE(at::equal(dim.assemble(pieces["labels"], 1), whole.at("labels")));
        if (dim.size() == length) {
          EXPECT_TRUE(at::equal(dim.assemble(pieces["positions"], 1), whole.at("positions")));
        }
      }
    }
  }
}

// Inside a local segment positions count up by one: it never spans two records, rows or distant intervals.
TEST(SequenceLayout, SegmentsAreContiguousPiecesOfOneRecord) {
  const int64_t length = 24;
  const std::vector<PackedRow> rows = random_rows(length, 6, root_key(3));
  for (int64_t rank = 0; rank < 3; ++rank) {
    const SequenceLayout layout(DimLayout::zigzag(length, 3), rank);
    const NamedTensors batch = layout.make_batch(rows, 0);
    const std::vector<int64_t> borders = values(batch.at("segments"));
    const std::vector<int64_t> positions = values(batch.at("positions"));
    ASSERT_EQ(borders.front(), 0);
    ASSERT_EQ(borders.back(), static_cast<int64_t>(positions.size()));
    for (size_t s = 0; s + 1 < borders.size(); ++s) {
      ASSERT_LT(borders[s], borders[s + 1]);
      EXPECT_EQ(borders[s] / layout.local_length(), (borders[s + 1] - 1) / layout.local_length());
      for (int64_t i = borders[s] + 1; i < borders[s + 1]; ++i) {
        EXPECT_EQ(positions[static_cast<size_t>(i)], positions[static_cast<size_t>(i) - 1] + 1);
      }
    }
  }
}

TEST(SequenceLayout, WritesTheSplitOverRingAndUlyssesByHand) {
  // Six chunks of 14: [0,3) [3,6) [6,8) [8,10) [10,12) [12,14); ring rank 1 holds the second and the fifth.
  const Mesh mesh({{"data", 2}, {"ring", 3}, {"ulysses", 2}}, 12, 6 + 3);
  const SequenceLayout layout = SequenceLayout::over(mesh, 14);
  using I = std::vector<Interval>;
  EXPECT_EQ(layout.ring().owned(1), (I{{3, 6}, {10, 12}}));
  EXPECT_EQ(layout.ring_rank(), 1);
  EXPECT_EQ(layout.ulysses_sizes(), (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(layout.dim().owned(2), (I{{3, 6}}));
  EXPECT_EQ(layout.dim().owned(3), (I{{10, 12}}));
  EXPECT_EQ(layout.dim().owned(0), (I{{0, 3}}));
  const NamedTensors batch = layout.make_batch({PackedRow{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {0, 5}}}, 0);
  using V = std::vector<int64_t>;
  EXPECT_EQ(values(batch.at("tokens")), (V{11, 0}));
  EXPECT_EQ(values(batch.at("row_positions")), (V{10, 11}));
  EXPECT_EQ(values(batch.at("record_starts")), (V{0, 0, 5, 5, 11}));  // of both ulysses ranks
}

// Any mesh holds every position once, and all of its ranks together the batch of one.
TEST(SequenceLayout, EveryMeshPartsTheRow) {
  for (const int64_t length : {1, 2, 5, 12, 31}) {
    const std::vector<PackedRow> rows = random_rows(length, 3, root_key(11));
    const NamedTensors whole = SequenceLayout::whole(length).make_batch(rows, 0);
    for (const auto& [ring, ulysses] : {std::pair(1, 1), {1, 4}, {3, 1}, {2, 2}, {3, 2}, {2, 5}}) {
      const int64_t size = ring * ulysses;
      std::vector<at::Tensor> tokens, labels;
      std::vector<at::Tensor> starts;
      for (int64_t rank = 0; rank < size; ++rank) {
        const Mesh mesh({{"ring", ring}, {"ulysses", ulysses}}, size, rank);
        const SequenceLayout layout = SequenceLayout::over(mesh, length);
        const NamedTensors batch = layout.make_batch(rows, 0);
        ASSERT_EQ(layout.dim().num_ranks(), size);
        ASSERT_EQ(batch.at("tokens").size(1), layout.local_length());
        tokens.push_back(batch.at("tokens"));
        labels.push_back(batch.at("labels"));
        if (rank % ulysses == 0) starts.push_back(batch.at("record_starts"));
        EXPECT_TRUE(at::equal(batch.at("record_starts"), starts.back()));
      }
      const SequenceLayout first =
          SequenceLayout::over(Mesh({{"ring", ring}, {"ulysses", ulysses}}, size, 0), length);
      EXPECT_TRUE(at::equal(first.dim().assemble(tokens, 1), whole.at("tokens")));
      EXPECT_TRUE(at::equal(first.dim().assemble(labels, 1), whole.at("labels")));
      EXPECT_TRUE(at::equal(first.ring().assemble(starts, 1), whole.at("record_starts")));
    }
    EXPECT_TRUE(at::equal(whole.at("record_starts"), whole.at("row_positions") - whole.at("positions")));
  }
}

TEST(SequenceLayout, RefusesRowsThatDoNotFit) {
  const SequenceLayout layout = SequenceLayout::whole(3);
  EXPECT_THROW(layout.make_batch({PackedRow{{1, 2, 3, 4}, {0}}}, 0), ValueError);
  EXPECT_THROW(layout.make_batch({PackedRow{{1, 2}, {}}}, 0), ValueError);
  EXPECT_THROW(layout.make_batch({PackedRow{{1, 2}, {1}}}, 0), ValueError);
  EXPECT_THROW(layout.make_batch({PackedRow{{1, 2}, {0, 0}}}, 0), ValueError);
  EXPECT_THROW(layout.make_batch({PackedRow{{1, 2}, {0, 2}}}, 0), ValueError);
  EXPECT_THROW(SequenceLayout(DimLayout::contiguous(6, 2).with_halo(1, 0)), ValueError);
  EXPECT_THROW(SequenceLayout::whole(0), ValueError);
}

}  // namespace
}  // namespace axial::parallel
