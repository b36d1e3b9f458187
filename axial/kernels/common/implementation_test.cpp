// SPDX-License-Identifier: Apache-2.0
#include "axial/kernels/common/implementation.h"

#include <gtest/gtest.h>

#include <vector>

#include "axial/kernels/common/row_splits.h"

namespace axial::kernels {
namespace {

struct Params {
  int size;
};

Status even(const Params& p) { return p.size % 2 == 0 ? Status{} : Status::unsupported("odd size"); }
Status small(const Params& p) { return p.size < 10 ? Status{} : Status::unsupported("large size"); }
Status run_even(const Params&, const ParallelFor&) { return Status::invalid("ran even"); }
Status run_small(const Params&, const ParallelFor&) { return Status::invalid("ran small"); }

constexpr Implementation<Params> kTable[] = {{"even", even, run_even}, {"small", small, run_small}};

TEST(Implementation, TheFirstThatSupportsRuns) {
  const std::span<const Implementation<Params>> table = kTable;
  EXPECT_EQ(run_first(table, Params{4}, serial_parallel_for()).text, "ran even");
  EXPECT_EQ(run_first(table, Params{5}, serial_parallel_for()).text, "ran small");
  const Status refused = run_first(table, Params{15}, serial_parallel_for());
  EXPECT_EQ(refused.code, StatusCode::kUnsupported);
  EXPECT_EQ(refused.text, "no implementation accepts the arguments (even: odd size; small: large size)");
}

TEST(RowSplits, CoverEachRowOnce) {
  for (const int64_t rows : {0, 1, 63, 64, 65, 4096, 4097, 100003}) {
    const RowSplits splits = row_splits(rows);
    EXPECT_LE(splits.count, 64);
    int64_t next = 0;
    for (int64_t s = 0; s < splits.count; ++s) {
      EXPECT_EQ(splits.begin(s), next);
      EXPECT_GT(splits.end(s), next);
      next = splits.end(s);
    }
    EXPECT_EQ(next, rows);
  }
}

TEST(RowSplits, PartsAreAddedInOrder) {
  const std::vector<float> parts = {1e8f, 1, -1e8f, 2, 1, 3};  // 3 parts of 2 columns
  std::vector<float> out(2);
  add_parts<float>(parts.data(), 3, 2, 2, out.data(), serial_parallel_for());
  EXPECT_EQ(out, (std::vector<float>{1, 6}));
  add_parts<float>(parts.data(), 0, 2, 2, out.data(), serial_parallel_for());
  EXPECT_EQ(out, (std::vector<float>{0, 0}));
}

}  // namespace
}  // namespace axial::kernels
