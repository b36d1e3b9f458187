// SPDX-License-Identifier: Apache-2.0
// Key derivation and the maps from bits to numbers of rng.h.
#include "axial/core/rng/rng.h"

#include <cmath>

#include "axial/core/check/check.h"

namespace axial {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

// The finaliser of SplitMix64: a bijection with full avalanche.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr double kTwoPi = 6.283185307179586476925286766559;

}  // namespace

RngKey RngKey::child(uint64_t number) const {
  return RngKey{mix(mix(value + kGolden) ^ (number * kGolden + 1))};
}

RngKey RngKey::child(std::string_view name) const {
  uint64_t h = 0xcbf29ce484222325ull;  // FNV-1a, then mixed
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return RngKey{mix(mix(value + kGolden) + mix(h ^ 0x6e616d65ull))};
}

uint64_t random_bits(RngKey key, uint64_t index) {
  const auto r = philox(key, index);
  return (uint64_t{r[0]} << 32) | r[1];
}

double random_uniform(RngKey key, uint64_t index) {
  return static_cast<double>(random_bits(key, index) >> 11) * 0x1p-53;
}

double random_normal(RngKey key, uint64_t index) {
  const auto r = philox(key, index);
  const uint64_t a = (uint64_t{r[0]} << 32) | r[1];
  const uint64_t b = (uint64_t{r[2]} << 32) | r[3];
  const double u = (static_cast<double>(a >> 11) + 1.0) * 0x1p-53;  // (0, 1]
  const double v = static_cast<double>(b >> 11) * 0x1p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(kTwoPi * v);
}

uint64_t random_below(RngKey key, uint64_t index, uint64_t n) {
  AXIAL_CHECK(n > 0, "random_below", "empty range; expected n > 0, got 0");
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random_bits(key, index)) * n) >> 64);
}

RandomPermutation::RandomPermutation(RngKey key, uint64_t n) : key_(key), n_(n) {
  AXIAL_CHECK(n <= (uint64_t{1} << 62), "random_permutation", "too many elements; expected n <= 2^62, got {}",
              n);
  while ((uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
}

uint64_t RandomPermutation::encrypt(uint64_t x) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = x >> half_bits_;
  uint64_t right = x & mask;
  for (uint64_t round = 0; round < 4; ++round) {
    const uint64_t next = left ^ (philox(key_, right, round)[0] & mask);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

uint64_t RandomPermutation::operator()(uint64_t i) const {
  AXIAL_CHECK(i < n_, "random_permutation", "index out of range; expected < {}, got {}", n_, i);
  // The Feistel network permutes a power of four that holds n; walking its cycle stays inside [0, n).
  do {
    i = encrypt(i);
  } while (i >= n_);
  return i;
}

}  // namespace axial
