// SPDX-License-Identifier: Apache-2.0
// States on the host or in a file: the same bits as on the device, none of their bytes on it, and faults that
// are told.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"
#include "axial/ops/common/memory_count.h"
#include "axial/optim/adamw/adamw.h"
#include "axial/optim/adamw/state_pieces.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::optim {
namespace {

using axial::testing::TemporaryFolder;
using parallel::Initializer;
using parallel::OffloadOptions;
using parallel::OffloadStore;
using parallel::OffloadTo;
using parallel::ParameterTable;

// Rows around pieces of 2^20 fp32 elements: several in a piece, one of two pieces, an empty one; four pieces,
// so that the three sets of buffers are used again.
void declare(ParameterTable& table) {
  table.declare({"a", {300, 7}, Initializer::normal(0.5)});
  table.declare({"empty", {0, 3}, Initializer::zeros()});
  table.declare({"large", {StatePieces::kBytes / 4, 2}, Initializer::ones()});
  table.declare({"b", {11}, Initializer::normal(0.5), false});
  table.declare({"odd", {262144 + 77}, Initializer::normal(0.5)});
  table.declare({"c", {700, 1000}, Initializer::ones()});
}

std::shared_ptr<OffloadStore> make_store(OffloadTo to, const TemporaryFolder& folder, at::Device device) {
  if (to == OffloadTo::kNone) return nullptr;
  return OffloadStore::make({.to = to, .device = device, .folder = folder.path()});
}

// Some rows go without a gradient in some steps.
void set_gradients(ParameterTable& table, int64_t step) {
  for (size_t i = 0; i < table.rows().size(); ++i) {
    auto& row = *table.rows()[i];
    row.grad = at::Tensor();
    if ((static_cast<int64_t>(i) + step) % 4 == 0) continue;
    const bool wide = row.value.scalar_type() == at::kDouble;
    const auto options = row.value.options().requires_grad(false).dtype(wide ? at::kDouble : at::kFloat);
    row.grad = at::empty(row.value.sizes(), options);
    if (row.grad.is_meta()) continue;
    const at::Tensor flat = at::arange(row.grad.numel(), options);
    row.grad.view({-1}).copy_(at::sin(flat * 0.37 + static_cast<double>(step)));
  }
}

class Training {
 public:
  Training(at::ScalarType dtype, std::shared_ptr<OffloadStore> store, at::Device device = at::kCPU,
           std::shared_ptr<OffloadStore> values = nullptr) {
    declare(table);
    for (const auto& row : table.rows()) row->zero_stage = values ? 3 : 0;
    table.offload_companions(std::move(store));
    table.offload_values(std::move(values));
    table.materialize(device, dtype, 5);
    adamw = std::make_unique<AdamW>(AdamWOptions{}, table);
  }
  void steps(int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      set_gradients(table, t);
      adamw->step(0.01, 0.5);
    }
  }
  ParameterTable table;
  std::unique_ptr<AdamW> adamw;
};

TEST(AdamWOffload, GivesTheSameBits) {
  const TemporaryFolder folder;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    Training resident(dtype, nullptr);
    resident.steps(4);
    for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
      SCOPED_TRACE(fmt::format("{} to {}", c10::toString(dtype), static_cast<int>(to)));
      Training offloaded(dtype, make_store(to, folder, at::kCPU));
      offloaded.steps(4);
      for (size_t i = 0; i < resident.table.rows().size(); ++i) {
        const auto& a = *resident.table.rows()[i];
        const auto& b = *offloaded.table.rows()[i];
        SCOPED_TRACE(a.spec.name);
        EXPECT_TRUE(at::equal(a.value, b.value));
        EXPECT_TRUE(b.companions.empty());
        ASSERT_EQ(a.companion_names(), b.companion_names());
        for (const std::string& name : a.companion_names()) {
          EXPECT_TRUE(at::equal(a.companion(name), b.companion(name))) << name;
        }
      }
    }
  }
}

// Values in a store too, whatever the states are in.
TEST(AdamWOffload, UpdatesValuesWhereTheyLie) {
  const TemporaryFolder folder;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Training resident(dtype, nullptr);
    resident.steps(2);
    for (const OffloadTo states : {OffloadTo::kNone, OffloadTo::kFile}) {
      for (const OffloadTo values : {OffloadTo::kHost, OffloadTo::kFile}) {
        SCOPED_TRACE(fmt::format("{} states {} values {}", c10::toString(dtype), static_cast<int>(states),
                                 static_cast<int>(values)));
        Training away(dtype, make_store(states, folder, at::kCPU), at::kCPU,
                      make_store(values, folder, at::kCPU));
        away.steps(2);
        for (size_t i = 0; i < resident.table.rows().size(); ++i) {
          const auto& a = *resident.table.rows()[i];
          const auto& b = *away.table.rows()[i];
          EXPECT_TRUE(at::equal(a.part(), b.part())) << a.spec.name;
          for (const std::string& name : a.companion_names()) {
            EXPECT_TRUE(at::equal(a.companion(name), b.companion(name))) << name << " of " << a.spec.name;
          }
        }
      }
    }
  }
}

// Nothing of states on the device, and what they take elsewhere, with and without data.
TEST(AdamWOffload, CountsTheirBytesWhereTheyAre) {
  const TemporaryFolder folder;
  for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
    std::vector<int64_t> counts[2];
    for (const at::Device device : {at::Device(at::kCPU), at::Device(at::kMeta)}) {
      const auto store = make_store(to, folder, device);
      ops::MemoryCount memory;
      Training training(at::kBFloat16, store, device);
      EXPECT_EQ(memory.live(ops::MemoryUse::kOptimizer), 0);
      const int64_t before = memory.live();
      training.steps(2);
      EXPECT_EQ(memory.live(ops::MemoryUse::kOptimizer), 0);
      const auto bytes = store->bytes();
      counts[device.is_meta() ? 1 : 0] = {before, bytes.host.live, bytes.host.peak, bytes.file.live,
                                          bytes.file.peak};
      int64_t states = 0;
      for (const auto& row : training.table.rows())
        states += 3 * ((row->value.numel() * 4 + 4095) / 4096 * 4096);
      EXPECT_EQ(to == OffloadTo::kFile ? bytes.file.live : bytes.host.live, states);
      if (to == OffloadTo::kFile) {
        EXPECT_LE(bytes.host.live, 9 * StatePieces::kBytes + (4 << 20));
      }
    }
    EXPECT_EQ(counts[0], counts[1]);
  }
}

TEST(AdamWOffload, CompanionsAreReplacedWhereTheyLie) {
  const TemporaryFolder folder;
  for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
    Training training(at::kBFloat16, make_store(to, folder, at::kCPU));
    auto& row = training.table.at("odd");
    const at::Tensor values = at::arange(row.value.numel(), at::kFloat);
    row.set_companion("exp_avg", values);
    EXPECT_TRUE(at::equal(row.companion("exp_avg"), values));
    EXPECT_TRUE(row.companions.empty());
  }
}

// A bit that a disk lost ends the step, and says where.
TEST(AdamWOffload, DamagedStatesAreFound) {
  const TemporaryFolder folder;
  Training training(at::kFloat, make_store(OffloadTo::kFile, folder, at::kCPU));
  int fd = -1;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    if (target.starts_with(folder.path().string())) fd = ::open(entry.path().c_str(), O_RDWR);
  }
  ASSERT_GE(fd, 0);
  const char bad = 1;
  ASSERT_EQ(::pwrite(fd, &bad, 1, 100), 1);
  ::close(fd);
  set_gradients(training.table, 1);
  try {
    training.adamw->step(0.01, 1.0);
    FAIL() << "expected an error";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("is damaged; expected 8400 bytes at 0"));
  }
}

}  // namespace
}  // namespace axial::optim
