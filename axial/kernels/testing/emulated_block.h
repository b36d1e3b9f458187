// SPDX-License-Identifier: Apache-2.0
// A block of threads of a CUDA device on the host, so that the source of a kernel runs where there is no
// device: lanes, fragments of mma and ldmatrix, shuffles, asynchronous copies, barriers, and shared memory
// that reports races. The same functions as device/cuda_block.cuh. For tests of kernels only.
#pragma once

#include <string_view>
#include <vector>

#include "axial/kernels/device/device.h"
#include "axial/kernels/device/tile_map.h"
#include "axial/kernels/testing/block_state.h"

namespace axial::kernels::test {

/// One thread's view of its block.
template <int kThreads>
class EmulatedBlock {
 public:
  template <class T>
  struct Array {
    int offset = 0, count = 0;
  };

  EmulatedBlock(BlockState& state, int thread) : state_(&state), thread_(thread) {}
  static constexpr int threads() { return kThreads; }
  int thread() const { return thread_; }
  int warp() const { return thread_ / device::kWarp; }
  int lane() const { return thread_ % device::kWarp; }
  int64_t index() const { return state_->index; }
  const char* waits_for() const { return waits_for_; }

  template <class T>
  Array<T> array(int offset_bytes, int count) const {
    AXIAL_CHECK(offset_bytes % 16 == 0, "emulated_block",
                "an array begins at byte {}; expected a multiple of 16", offset_bytes);
    return {offset_bytes, count};
  }
  template <class T>
  T load(Array<T> from, int at) {
    T value;
    state_->shared.read(who(), place(from, at, 1), sizeof(T), &value);
    return value;
  }
  template <class T>
  void store(Array<T> to, int at, T value) {
    state_->shared.write(who(), place(to, at, 1), sizeof(T), &value);
  }
  void store_chunk(Array<uint16_t> to, int at, const uint32_t (&words)[4]) {
    state_->shared.write(who(), chunk(to, at), 16, words);
  }
  void copy_chunk(Array<uint16_t> to, int at, const uint16_t* from, bool wanted) {
    AXIAL_CHECK(!wanted || reinterpret_cast<uintptr_t>(from) % 16 == 0, "emulated_block",
                "a copy from memory that is not aligned to 16 bytes");
    copies_.push_back({chunk(to, at), wanted ? from : nullptr, group_});
    state_->shared.expect(who(), copies_.back().at, 16);
  }
  void commit() { ++group_; }
  template <int kGroups>
  void wait() {
    size_t kept = 0;
    for (const Copy& copy : copies_) {
      if (copy.group >= group_ - kGroups) {
        copies_[kept++] = copy;
      } else {
        state_->shared.arrive(who(), copy.at, 16, copy.from);
      }
    }
    copies_.resize(kept);
  }

  void sync() {
    const int64_t now = state_->barriers;
    if (++state_->at_barrier == kThreads) {
      state_->at_barrier = 0;
      ++state_->barriers;
    }
    bool first = true;
    while (state_->barriers == now) wait_in("sync", first), first = false;
    ++passed_;
  }
  template <class V>
  V shuffle_xor(V value, int mask, int line = __builtin_LINE()) {
    struct Lane {
      V given, taken;
    } mine{value, value};
    collective("shuffle_xor", line, &mine, [&](void* const(&lanes)[device::kWarp]) {
      for (int i = 0; i < device::kWarp; ++i) {
        static_cast<Lane*>(lanes[i])->taken = static_cast<Lane*>(lanes[i ^ mask])->given;
      }
    });
    return mine.taken;
  }
  template <bool kTurned>
  void load_matrices(uint32_t (&words)[4], Array<uint16_t> from, int at, int line = __builtin_LINE()) {
    struct Lane {
      uint16_t row[8];
      uint32_t words[4];
    } mine;
    state_->shared.read(who(), chunk(from, at), 16, mine.row);
    collective("load_matrices", line, &mine, [](void* const(&lanes)[device::kWarp]) {
      const auto element = [&](int matrix, int row, int col) -> uint32_t {
        return static_cast<Lane*>(lanes[matrix * 8 + row])->row[col];
      };
      for (int i = 0; i < device::kWarp; ++i) {
        for (int m = 0; m < 4; ++m) {
          const int r = i / 4, c = i % 4 * 2;
          static_cast<Lane*>(lanes[i])->words[m] = kTurned ? element(m, c, r) | element(m, c + 1, r) << 16
                                                           : element(m, r, c) | element(m, r, c + 1) << 16;
        }
      }
    });
    for (int m = 0; m < 4; ++m) words[m] = mine.words[m];
  }
  template <class T>
  void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                int line = __builtin_LINE()) {
    struct Lane {
      float* c;
      const uint32_t* a;
      uint32_t b[2];
    } mine{c, a, {b0, b1}};
    collective("multiply", line, &mine, [](void* const(&lanes)[device::kWarp]) {
      float left[16][16], right[16][8];
      const auto half = [](uint32_t word, int h) {
        return device::widen<T>(static_cast<uint16_t>(word >> (16 * h)));
      };
      for (int i = 0; i < device::kWarp; ++i) {
        const Lane& lane = *static_cast<Lane*>(lanes[i]);
        for (int h = 0; h < 2; ++h) {
          using device::LeftFragment, device::RightFragment;
          for (int w = 0; w < 4; ++w)
            left[LeftFragment::row(i, w)][LeftFragment::k(i, w, h)] = half(lane.a[w], h);
          for (int w = 0; w < 2; ++w)
            right[RightFragment::k(i, w, h)][RightFragment::col(i)] = half(lane.b[w], h);
        }
      }
      for (int i = 0; i < device::kWarp; ++i) {
        for (int e = 0; e < 4; ++e) {
          float& sum = static_cast<Lane*>(lanes[i])->c[e];
          const int row = device::Accumulator::row(i, e), col = device::Accumulator::col(i, e);
          for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][col];
        }
      }
    });
  }

 private:
  struct Copy {
    int at;
    const uint16_t* from;
    int group;
  };
  Toucher who() const { return {thread_, passed_}; }
  template <class T>
  int place(Array<T> array, int at, int count) const {
    AXIAL_CHECK(at >= 0 && at + count <= array.count, "emulated_block",
                "thread {}: elements {} to {} of an array of {}", thread_, at, at + count, array.count);
    return array.offset + at * static_cast<int>(sizeof(T));
  }
  int chunk(Array<uint16_t> array, int at) const {
    AXIAL_CHECK(at % 8 == 0, "emulated_block", "a chunk at element {}; expected a multiple of 8", at);
    return place(array, at, 8);
  }
  void wait_in(const char* call, bool progress) {
    waits_for_ = call;
    state_->fibers->yield(progress);
    waits_for_ = nullptr;
  }
  // All lanes of the warp meet in one call; the last to come does it for all.
  template <class Perform>
  void collective(const char* call, int line, void* mine, const Perform& perform) {
    BlockState::Warp& warp = state_->warps[static_cast<size_t>(this->warp())];
    if (warp.arrived > 0 && (warp.line != line || std::string_view(warp.call) != call)) {
      throw std::runtime_error(fmt::format("lanes of warp {} are in {} of line {} and in {} of line {}",
                                           this->warp(), warp.call, warp.line, call, line));
    }
    warp.call = call;
    warp.line = line;
    warp.lanes[lane()] = mine;
    const int64_t now = warp.calls;
    if (++warp.arrived == device::kWarp) {
      perform(warp.lanes);
      warp.arrived = 0;
      ++warp.calls;
    }
    bool first = true;
    while (warp.calls == now) wait_in(call, first), first = false;
  }

  BlockState* state_;
  int thread_;
  int64_t passed_ = 0;  // barriers
  int group_ = 0;
  std::vector<Copy> copies_;
  const char* waits_for_ = nullptr;
};

}  // namespace axial::kernels::test
