// SPDX-License-Identifier: Apache-2.0
// Shared memory of an emulated block that knows who touched what since which barrier: reads of what nobody
// wrote or of what is still on its way, bounds, and races. For tests of kernels only.
#pragma once

#include <cstring>
#include <stdexcept>
#include <vector>

#include "axial/core/check/check.h"

namespace axial::kernels::test {

/// A thread of the block and how many barriers it has passed.
struct Toucher {
  int thread = -1;
  int64_t barriers = -1;
};

/// Bytes in granules of two, the smallest that kernels share. Throws std::runtime_error that names threads.
class SharedMemory {
 public:
  explicit SharedMemory(int bytes)
      : bytes_(static_cast<size_t>(bytes)), granules_(static_cast<size_t>((bytes + 1) / 2)) {}
  int size() const { return static_cast<int>(bytes_.size()); }

  void read(const Toucher& who, int at, int count, void* to) {
    check(who, at, count, "reads");
    for (int g = at / 2; g < (at + count + 1) / 2; ++g) {
      Granule& granule = granules_[static_cast<size_t>(g)];
      if (granule.pending) fail(who, g, "reads what is still on its way to it, by a copy of", granule.writer);
      if (granule.writer.thread < 0) fail(who, g, "reads what nobody wrote;", who);
      if (races(who, granule.writer))
        fail(who, g, "reads, without a barrier, what was written by", granule.writer);
      if (granule.reader.barriers == who.barriers && granule.reader.thread != who.thread) granule.many = true;
      if (granule.reader.barriers != who.barriers) granule.many = false;
      granule.reader = who;
    }
    std::memcpy(to, bytes_.data() + at, static_cast<size_t>(count));
  }

  void write(const Toucher& who, int at, int count, const void* from) {
    claim(who, at, count, false);
    std::memcpy(bytes_.data() + at, from, static_cast<size_t>(count));
  }

  /// The bytes will be written by arrive().
  void expect(const Toucher& who, int at, int count) { claim(who, at, count, true); }

  /// A copy that `who` began has come; it is as if written now. Null: zeros.
  void arrive(const Toucher& who, int at, int count, const void* from) {
    for (int g = at / 2; g < (at + count + 1) / 2; ++g) {
      granules_[static_cast<size_t>(g)].pending = false;
      granules_[static_cast<size_t>(g)].writer = who;
    }
    if (from == nullptr) {
      std::memset(bytes_.data() + at, 0, static_cast<size_t>(count));
    } else {
      std::memcpy(bytes_.data() + at, from, static_cast<size_t>(count));
    }
  }

 private:
  struct Granule {
    Toucher writer, reader;
    bool many = false;  // threads read since the last barrier
    bool pending = false;
  };

  static bool races(const Toucher& who, const Toucher& other) {
    return other.thread >= 0 && other.thread != who.thread && other.barriers == who.barriers;
  }
  void check(const Toucher& who, int at, int count, const char* what) const {
    if (at >= 0 && at + count <= size()) return;
    throw std::runtime_error(fmt::format("thread {} {} bytes {} to {} of {} of shared memory", who.thread,
                                         what, at, at + count, size()));
  }
  void claim(const Toucher& who, int at, int count, bool pending) {
    check(who, at, count, "writes");
    for (int g = at / 2; g < (at + count + 1) / 2; ++g) {
      Granule& granule = granules_[static_cast<size_t>(g)];
      if (granule.pending) fail(who, g, "writes where a copy is on its way, of", granule.writer);
      if (races(who, granule.writer))
        fail(who, g, "writes, without a barrier, what was written by", granule.writer);
      const bool read = granule.reader.barriers == who.barriers;
      if (read && (granule.many || granule.reader.thread != who.thread)) {
        fail(who, g, "writes, without a barrier, what was read by", granule.reader);
      }
      granule.writer = who;
      granule.pending = pending;
    }
  }
  [[noreturn]] static void fail(const Toucher& who, int granule, const char* what, const Toucher& other) {
    throw std::runtime_error(fmt::format("thread {} {} thread {}, at byte {} after {} barriers", who.thread,
                                         what, other.thread, granule * 2, who.barriers));
  }

  std::vector<unsigned char> bytes_;
  std::vector<Granule> granules_;
};

}  // namespace axial::kernels::test
