// SPDX-License-Identifier: Apache-2.0
// Tensors come back as they went, from every place; bytes are counted alike with and without data.
#include "axial/parallel/offload/offload_store.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/ops/common/memory_count.h"
#include "axial/testing/temporary_folder/temporary_folder.h"

namespace axial::parallel {
namespace {

using Store = std::shared_ptr<OffloadStore>;

struct Kind {
  const char* name;
  OffloadTo to;
  FileCalls calls;
  bool direct;
};
constexpr Kind kKinds[] = {{"Host", OffloadTo::kHost, FileCalls::kBest, true},
                           {"Uring", OffloadTo::kFile, FileCalls::kUring, true},
                           {"UringCached", OffloadTo::kFile, FileCalls::kUring, false},
                           {"Plain", OffloadTo::kFile, FileCalls::kPlain, true},
                           {"PlainCached", OffloadTo::kFile, FileCalls::kPlain, false}};

class OffloadStoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  Store make(int64_t puts_under_way = 2, at::Device device = at::kCPU) {
    OffloadOptions options;
    options.to = GetParam().to;
    options.device = device;
    options.folder = folder_.path();
    options.puts_under_way = puts_under_way;
    options.calls = GetParam().calls;
    options.direct = GetParam().direct;
    try {
      return OffloadStore::make(options);
    } catch (const UnsupportedError& error) {
      skipped_ = error.what();
      return nullptr;
    }
  }
  bool is_file() const { return GetParam().to == OffloadTo::kFile; }
  SpaceBytes space(const Store& store) const { return is_file() ? store->bytes().file : store->bytes().host; }

  testing::TemporaryFolder folder_;
  std::string skipped_;
};
#define MAKE_OR_SKIP(store, ...)         \
  const Store store = make(__VA_ARGS__); \
  if (!(store)) GTEST_SKIP() << skipped_

INSTANTIATE_TEST_SUITE_P(Kinds, OffloadStoreTest, ::testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(info.param.name); });

// Around pages and pieces, empty, a scalar, every width.
std::vector<at::Tensor> many_tensors() {
  std::vector<at::Tensor> out;
  const auto options = at::TensorOptions(at::kLong);
  for (const int64_t n : {0, 1, 511, 512, 513, 131072, 131073, 1000003}) {
    out.push_back(at::arange(n, options) * 2654435761 + n);
    out.push_back((out.back() % 65521).to(at::kBFloat16));
    out.push_back((out[out.size() - 2] % 3).to(at::kBool));
  }
  out.push_back(at::full({}, 2.5, at::kDouble));
  out.push_back(at::arange(60, options).view({3, 4, 5}).permute({2, 0, 1}));  // dense, strides kept
  out.push_back(at::arange(60, options).view({3, 4, 5}).narrow(1, 1, 2));     // not dense
  return out;
}

TEST_P(OffloadStoreTest, TensorsComeBackAsTheyWent) {
  MAKE_OR_SKIP(store);
  std::vector<at::Tensor> expected = many_tensors();
  std::vector<Offloaded> slots;
  for (const at::Tensor& tensor : expected) slots.push_back(store->put(tensor));
  for (size_t i = 0; i < slots.size(); i += 2) slots[i].start_fetch();
  for (size_t i = 0; i < slots.size(); ++i) {
    const at::Tensor got = slots[i].take();
    EXPECT_TRUE(at::equal(got, expected[i])) << i;
    EXPECT_EQ(got.scalar_type(), expected[i].scalar_type());
    if (expected[i].is_non_overlapping_and_dense()) {
      EXPECT_EQ(got.strides(), expected[i].strides()) << i;
    }
    EXPECT_TRUE(at::equal(slots[i].read(), expected[i])) << i;  // it is still there
  }
}

// The caller may let the source go as soon as put returns.
TEST_P(OffloadStoreTest, SourcesMayGo) {
  MAKE_OR_SKIP(store);
  std::vector<Offloaded> slots;
  for (int64_t i = 0; i < 8; ++i) slots.push_back(store->put(at::full({300000}, i, at::kFloat)));
  for (int64_t i = 7; i >= 0; --i) {
    EXPECT_TRUE(at::equal(slots[static_cast<size_t>(i)].take(), at::full({300000}, i, at::kFloat))) << i;
  }
}

TEST_P(OffloadStoreTest, PlacesAreUsedAgain) {
  MAKE_OR_SKIP(store);
  for (int64_t i = 0; i < 5; ++i) {
    Offloaded a = store->put(at::full({100000}, i, at::kFloat)), b = store->put(at::ones({5}, at::kFloat));
    EXPECT_TRUE(at::equal(a.take(), at::full({100000}, i, at::kFloat)));
  }
  store->settle();
  EXPECT_EQ(space(store).live, 0);
  EXPECT_EQ(space(store).peak, 98 * 4096 + 4096);  // 400000 bytes are 97.7 pages
}

TEST_P(OffloadStoreTest, PartsAreReadAndWritten) {
  MAKE_OR_SKIP(store);
  const int64_t piece = kOffloadPiece / 4, n = 3 * piece + 17;
  at::Tensor expected = at::arange(n, at::kFloat);
  Offloaded slot = store->put(expected);
  const at::Tensor part = at::full({piece}, -1, at::kFloat), tail = at::full({17}, -2, at::kFloat);
  slot.start_write(part, piece);
  slot.start_write(tail, 3 * piece);
  slot.wait();
  expected.narrow(0, piece, piece).copy_(part);
  expected.narrow(0, 3 * piece, 17).copy_(tail);
  EXPECT_TRUE(at::equal(slot.take(), expected));
  const at::Tensor got = store->host_buffer(2 * piece, at::kFloat);
  slot.start_read(got, piece);
  slot.wait();
  EXPECT_TRUE(at::equal(got, expected.narrow(0, piece, 2 * piece)));
  slot.write(at::zeros({n}, at::kDouble));
  EXPECT_TRUE(at::equal(slot.read(), at::zeros({n}, at::kFloat)));
  EXPECT_THROW(slot.start_read(got, 1), ValueError);
  EXPECT_THROW(slot.start_read(got, 2 * piece), ValueError);
  EXPECT_THROW(slot.start_write(part.narrow(0, 0, 5), 0), ValueError);
  EXPECT_THROW(slot.start_write(part.to(at::kDouble), 0), ValueError);
  EXPECT_EQ(slot.host_view().defined(), !is_file());
}

// The same calls with and without data: what the device holds at every place, and what the store takes.
TEST_P(OffloadStoreTest, MetaCountsTheSameBytes) {
  const auto run = [&](at::Device device) {
    std::vector<int64_t> seen;
    const Store store = make(2, device);
    if (!store) return seen;
    ops::MemoryCount memory;
    const auto look = [&] {
      const OffloadBytes b = store->bytes();
      for (const int64_t bytes :
           {memory.live(), memory.peak(), b.host.live, b.host.peak, b.file.live, b.file.peak}) {
        seen.push_back(bytes);
      }
    };
    const auto options = at::TensorOptions(device).dtype(at::kFloat);
    std::vector<Offloaded> slots;
    for (int64_t i = 1; i <= 5; ++i) {
      slots.push_back(store->put(at::empty({i * 10000}, options).zero_()));
      look();
    }
    slots[3].start_fetch();
    look();
    const at::Tensor back = slots[3].take();
    slots[3] = {};
    look();
    at::Tensor buffer = store->host_buffer(3000, at::kFloat);
    look();
    buffer.reset();
    slots.clear();
    store->settle();
    look();
    EXPECT_EQ(back.sizes(), at::IntArrayRef({40000}));
    EXPECT_EQ(memory.live(), 160000);
    return seen;
  };
  const std::vector<int64_t> with_data = run(at::kCPU);
  if (with_data.empty()) GTEST_SKIP() << skipped_;
  EXPECT_EQ(with_data, run(at::kMeta));
  EXPECT_EQ(with_data[4 * 6], 360000);  // the last two puts are under way
  EXPECT_EQ(with_data[5 * 6], 360000);  // the fifth put, and the fourth tensor again
}

TEST(OffloadStore, RefusesWhatItCannotKeep) {
  EXPECT_THROW(OffloadStore::make({.to = OffloadTo::kNone}), ValueError);
  EXPECT_THROW(OffloadStore::make({.device = at::Device("cuda:0")}), ValueError);
  const Store store = OffloadStore::make({});
  EXPECT_THROW(store->put({}), ValueError);
  EXPECT_THROW(store->put(at::empty({3}, at::TensorOptions(at::kMeta))), ValueError);
  Offloaded slot = store->put(at::ones({3}));
  slot.start_fetch();
  EXPECT_THROW(slot.start_fetch(), ValueError);
}

// A tensor outlives whoever made the store.
TEST(OffloadStore, LivesAsLongAsItsTensors) {
  Offloaded slot = OffloadStore::make({})->put(at::ones({1000}));
  EXPECT_TRUE(at::equal(slot.take(), at::ones({1000})));
}

}  // namespace
}  // namespace axial::parallel
