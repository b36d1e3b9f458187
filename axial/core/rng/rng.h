// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: value = f(key, index), with no state to carry, save or split.
//
// Philox4x32-10 (Salmon et al., SC 2011). Initial weights, dropout, data order and sampling all
// draw from here, each under its own key, so every layout and every thread count sees equal values.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace axial {

/// What a stream of random numbers belongs to. Two different keys give independent streams.
struct RngKey {
  uint64_t value = 0;

  /// The key of a child: a name (parameter, purpose) or a number (step, epoch, sample id).
  RngKey child(std::string_view name) const;
  RngKey child(uint64_t number) const;
};

/// Key of a run's seed.
inline RngKey root_key(uint64_t seed) { return RngKey{seed}; }

/// Four independent 32-bit words at `index` of the stream, the inlined core of everything below.
inline std::array<uint32_t, 4> philox(RngKey key, uint64_t index, uint64_t index_high = 0) {
  uint32_t k0 = static_cast<uint32_t>(key.value);
  uint32_t k1 = static_cast<uint32_t>(key.value >> 32);
  std::array<uint32_t, 4> c{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                            static_cast<uint32_t>(index_high), static_cast<uint32_t>(index_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// 64 random bits at `index`.
uint64_t random_bits(RngKey key, uint64_t index);
/// Uniform in [0, 1) with 53 bits at `index`.
double random_uniform(RngKey key, uint64_t index);
/// Standard normal at `index` (Box-Muller on one Philox call; equal on every device of a kind).
double random_normal(RngKey key, uint64_t index);
/// Uniform integer in [0, n) at `index`, n > 0; multiply-shift, bias below n / 2^64.
uint64_t random_below(RngKey key, uint64_t index, uint64_t n);

/// A keyed bijection of [0, n): a shuffled order that is computed, not stored (Feistel, cycle walking).
/// O(1) expected time and no memory; n up to 2^62.
class RandomPermutation {
 public:
  RandomPermutation(RngKey key, uint64_t n);
  uint64_t operator()(uint64_t i) const;

 private:
  uint64_t encrypt(uint64_t x) const;
  RngKey key_;
  uint64_t n_ = 0;
  int half_bits_ = 1;
};

}  // namespace axial
