// SPDX-License-Identifier: Apache-2.0
// Values of ZeRO-3 that lie on the host or in a file between uses: no bit of a gradient changes, the device
// holds those of a few blocks, a plan counts the same, and what is lost is told.
#include "axial/parallel/replicas/away.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/replicas/replicas.h"
#include "axial/parallel/step/test_chain.h"
#include "axial/testing/ranks/ranks.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

using test::Chain;
using testing::require;

Mesh data_mesh(int64_t size, int64_t rank) { return Mesh({{"data", size}, {"tensor", 1}}, size, rank); }

std::shared_ptr<OffloadStore> make_store(OffloadTo to, at::Device device,
                                         const std::filesystem::path& folder) {
  if (to == OffloadTo::kNone) return nullptr;
  return OffloadStore::make({.to = to, .device = device, .folder = folder});
}

MemoryPolicy policy_of(int64_t recompute, OffloadTo to) {
  MemoryPolicy policy;
  policy.zero_stage = 3;
  policy.recompute_group = recompute;
  policy.offload_parameters = to;
  return policy;
}

struct Measured {
  std::vector<at::Tensor> gradients;
  at::Tensor y;
  int64_t resident = 0, peak = 0;
  OffloadBytes away;
};

// Two steps, so that places are used again, and an inference.
Measured run(Communicator& ranks, int64_t depth, int64_t rows, const MemoryPolicy& policy, at::Device device,
             at::ScalarType dtype, const std::filesystem::path& folder = {}) {
  Measured out;
  ops::MemoryCount memory;
  const auto store = make_store(policy.offload_parameters, device, folder);
  Chain chain(depth, device, dtype, [&](ParameterTable& table) {
    table.offload_values(store);
    partition_parameters(table, ranks.mesh(), 3, store != nullptr);
  });
  out.resident = memory.live();
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &ranks);
  std::vector<NamedTensors> batches;
  for (int64_t m = 0; m < 2; ++m) {
    const auto seed = static_cast<uint64_t>(10 * ranks.mesh().rank() + m);
    batches.push_back(chain.batch(rows + m, seed, device, dtype));
  }
  const StepPlan plan = write_training_step(static_cast<int64_t>(chain.blocks.size()), 2, policy);
  for (int64_t step = 0; step < 2; ++step) {
    chain.table.clear_gradients();
    memory.reset_peak();
    runner.train(plan, batches, {}, 0.3);
  }
  out.peak = memory.peak();
  for (const auto& row : chain.table.rows()) out.gradients.push_back(row->grad.clone());
  if (store) {
    for (const auto& row : chain.table.rows()) {
      require(!row->shard.defined() && row->value.storage().nbytes() == 0, "a value is left on the device");
    }
    out.away = store->bytes();
  }
  out.y = runner.infer(batches[0], {}, {"y"}).at("y");
  return out;
}

void check_bits(World& world) {
  const testing::TemporaryFolder folder;
  const auto ranks = world.make_communicator(data_mesh(world.size(), world.rank()));
  for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16}) {
    for (const int64_t recompute : {0, 1, 2}) {
      const Measured kept = run(*ranks, 5, 3, policy_of(recompute, OffloadTo::kNone), at::kCPU, dtype);
      for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
        const Measured away = run(*ranks, 5, 3, policy_of(recompute, to), at::kCPU, dtype, folder.path());
        const std::string what =
            fmt::format("recompute {} to {} {}", recompute, static_cast<int>(to), c10::toString(dtype));
        for (size_t i = 0; i < kept.gradients.size(); ++i) {
          require(at::equal(kept.gradients[i], away.gradients[i]), fmt::format("{}: gradient {}", what, i));
        }
        require(at::equal(kept.y, away.y), what + ": inference");
      }
    }
  }
}

TEST(AwayValues, GiveTheBitsOfThoseOnTheDevice) {
  EXPECT_EQ(testing::failures(testing::run_ranks(1, check_bits)), "");
}
TEST(AwayValues, GiveTheBitsOfThoseOnTheDeviceOfThreeRanks) {
  EXPECT_EQ(testing::failures(testing::run_ranks(3, check_bits)), "");
}

// 24 blocks of 8 x 8 and 8, of which a rank alone holds at most what three groups read, each with the shared
// 8 x 8; their gradients pass the device one block at a time.
TEST(AwayValues, TheDeviceHoldsThoseOfAFewBlocks) {
  const auto measured = [](int64_t depth, OffloadTo to) {
    Communicator alone(data_mesh(1, 0));
    return run(alone, depth, 1, policy_of(1, to), at::kMeta, at::kFloat);
  };
  const int64_t block = (8 * 8 + 8) * 4, ends = 2 * 5 * 8 * 4 + 2 * 8 * 8 * 4;
  const Measured kept = measured(24, OffloadTo::kNone), away = measured(24, OffloadTo::kHost);
  EXPECT_EQ(kept.resident, (5 * 8 + 8 * 8) * 4 + 24 * block);
  EXPECT_EQ(away.resident, 0);
  EXPECT_LE(away.peak, kept.peak - 2 * 24 * block + 5 * block + ends);
  EXPECT_EQ(away.peak - measured(12, OffloadTo::kHost).peak,
            kept.peak - measured(12, OffloadTo::kNone).peak - 2 * 12 * block);
}

TEST(AwayValues, APlanCountsWhatAStepCopies) {
  const testing::TemporaryFolder folder;
  for (const OffloadTo to : {OffloadTo::kHost, OffloadTo::kFile}) {
    for (const int64_t recompute : {0, 1}) {
      const auto measured = [&](at::Device device) {
        Communicator alone(data_mesh(1, 0));
        return run(alone, 3, 4, policy_of(recompute, to), device, at::kFloat, folder.path());
      };
      const Measured real = measured(at::kCPU), planned = measured(at::kMeta);
      EXPECT_EQ(planned.peak, real.peak);
      EXPECT_EQ(planned.resident, real.resident);
      const auto numbers = [](const SpaceBytes& s) {
        return std::vector<int64_t>{s.live, s.peak, s.written, s.read};
      };
      EXPECT_EQ(numbers(planned.away.host), numbers(real.away.host));
      EXPECT_EQ(numbers(planned.away.file), numbers(real.away.file));
      // Of 320 elements: put once; per step fetched forward and back in both micro-batches, the tied 5 x 8
      // twice each, but for the first block, which stays between micro-batches.
      const SpaceBytes& values = to == OffloadTo::kFile ? real.away.file : real.away.host;
      EXPECT_EQ(values.read, 2 * 4 * (4 * (320 + 40) - 40));
      const int64_t gradients = 2 * 2 * 320 * 4;
      EXPECT_EQ(real.away.file.written + real.away.host.written, 320 * 4 + gradients);
    }
  }
}

TEST(AwayValues, PlansThatForgetAFetchAreRefused) {
  Communicator alone(data_mesh(1, 0));
  const auto store = make_store(OffloadTo::kHost, at::kCPU, {});
  Chain chain(2, at::kCPU, at::kFloat, [&](ParameterTable& table) {
    table.offload_values(store);
    partition_parameters(table, alone.mesh(), 3, true);
  });
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &alone);
  const StepPlan whole = write_training_step(5, 1, policy_of(1, OffloadTo::kHost));
  const auto error_of = [&](const StepPlan& plan) -> std::string {
    try {
      runner.train(plan, {chain.batch(2, 1, at::kCPU, at::kFloat)}, {}, 1.0);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of(whole), "");
  StepPlan less = whole, more = whole;
  less.actions.erase(less.actions.begin());
  EXPECT_THAT(error_of(less), ::testing::HasSubstr("expected a fetch of its parts before it"));
  more.actions.insert(more.actions.begin(), more.actions.front());
  EXPECT_THAT(error_of(more), ::testing::HasSubstr("expected no fetch of its parts"));
  EXPECT_THROW(write_training_step(5, 1, {.offload_parameters = OffloadTo::kHost}), ValueError);
}

// Room is taken before a run begins, and there it is missed.
TEST(AwayValues, AFullFolderIsFoundBeforeTheFirstStep) {
  const testing::TemporaryFolder folder;
  const auto make = [&] {
    Chain chain(4, at::kCPU, at::kFloat, [&](ParameterTable& table) {
      table.offload_values(make_store(OffloadTo::kFile, at::kCPU, folder.path()));
      partition_parameters(table, data_mesh(1, 0), 3, true);
    });
  };
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4 * 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string error;
  try {
    make();
  } catch (const IoError& e) {
    error = e.what();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(error, ::testing::HasSubstr("expected 4096 bytes beside the 16384 it has"));
  EXPECT_NO_THROW(make());
}

// A bit that a disk lost ends the step, and says where; the other values are as they were.
TEST(AwayValues, DamagedPartsAreFound) {
  const testing::TemporaryFolder folder;
  Communicator alone(data_mesh(1, 0));
  const auto store = make_store(OffloadTo::kFile, at::kCPU, folder.path());
  Chain chain(2, at::kCPU, at::kFloat, [&](ParameterTable& table) {
    table.offload_values(store);
    partition_parameters(table, alone.mesh(), 3, true);
  });
  const at::Tensor before = chain.table.at("shared.weight").part();
  int fd = -1;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    if (target.starts_with(folder.path().string())) fd = ::open(entry.path().c_str(), O_RDWR);
  }
  ASSERT_GE(fd, 0);
  const char bad = 1;
  ASSERT_EQ(::pwrite(fd, &bad, 1, 100), 1);  // of the first: embed.weight
  ::close(fd);
  StepRunner runner(chain.blocks, chain.table, Chain::batch_names(), &alone);
  try {
    runner.train(write_training_step(5, 1, policy_of(1, OffloadTo::kFile)),
                 {chain.batch(2, 1, at::kCPU, at::kFloat)}, {}, 1.0);
    FAIL() << "expected an error";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("is damaged; expected 160 bytes at 0"));
  }
  EXPECT_TRUE(at::equal(chain.table.at("shared.weight").part(), before));
}

}  // namespace
}  // namespace axial::parallel
