// SPDX-License-Identifier: Apache-2.0
// Matrix tiles of x86 (AMX): registers of 16 rows of 64 bytes, and products of numbers that are sums of
// bfloat16 parts. Included once per target, by amx.cpp for AVX-512 alone.

#if defined(AXIAL_KERNELS_ATTENTION_AMX_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_AMX_TILES_INL_H_
#undef AXIAL_KERNELS_ATTENTION_AMX_TILES_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_AMX_TILES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <type_traits>

#include "axial/kernels/attention/tile_inl.h"

#if HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

inline constexpr int64_t kTileWords = 256;  // of a tile: 16 rows of 16 words
inline constexpr int kTileKeys = 32;        // keys, or queries, of two tiles

// Compilers know no tile registers in functions of another target: plain assembly, which says that it reads
// and writes memory.
template <int kRegister>
HWY_INLINE void tile_load(const void* from, int64_t bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(bytes), "i"(kRegister) : "memory");
}
template <int kRegister>
HWY_INLINE void tile_store(void* to, int64_t bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(bytes), "i"(kRegister) : "memory");
}
template <int kRegister>
HWY_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kRegister));
}
template <int kSum, int kLeft, int kRight>
HWY_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
}

/// Tiles of 16 rows of 64 bytes, while it lives, on this thread.
class TileSession {
 public:
  HWY_INLINE TileSession() {
    struct alignas(64) Config {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
  HWY_INLINE ~TileSession() { asm volatile("tilerelease"); }
};

/// The parts of 16 floats, each in the high half of a word.
template <int kParts>
struct Parts {
  __m512i at[kParts];
};

template <int kParts>
HWY_INLINE Parts<kParts> parts_of(Floats x) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  Parts<kParts> parts;
#pragma GCC unroll 2
  for (int i = 0; i < kParts; ++i) {
    parts.at[i] = _mm512_and_si512(_mm512_castps_si512(x.raw), high);
    if (i + 1 < kParts) x = hn::Sub(x, Floats{_mm512_castsi512_ps(parts.at[i])});
  }
  return parts;
}

/// Store the pairs (a, b), part by part, `part` words apart.
template <int kParts>
HWY_INLINE void store_pairs(const Parts<kParts>& a, const Parts<kParts>& b, uint32_t* to, int64_t part) {
#pragma GCC unroll 2
  for (int i = 0; i < kParts; ++i) {
    _mm512_storeu_si512(to + i * part, _mm512_or_si512(_mm512_srli_epi32(a.at[i], 16), b.at[i]));
  }
}

/// The first `count` of 16 floats, zero behind them.
HWY_INLINE Floats load_part(const float* from, int64_t count) {
  if (count >= kLanes) return load_floats(from);
  if (count <= 0) return hn::Zero(FloatTag());
  return Floats{_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from)};
}

/// A side of a product: its tiles, and how many words its parts, its next tile and its next step lie apart.
struct TileSide {
  const uint32_t* at;
  int64_t part, tile, step;
};

/// c [16 kRowTiles, 16 kColumnTiles] = or += a b, over `steps` of 32 that meet.
template <int kLeft, int kRight, int kRowTiles, int kColumnTiles>
HWY_INLINE void tile_product(TileSide a, TileSide b, int64_t steps, float* c, int64_t pitch, bool add) {
  constexpr bool kRows2 = kRowTiles > 1, kColumns2 = kColumnTiles > 1;
  const int64_t bytes = pitch * 4;
  if (add) {
    tile_load<0>(c, bytes);
    if constexpr (kColumns2) tile_load<1>(c + 16, bytes);
    if constexpr (kRows2) tile_load<2>(c + 16 * pitch, bytes);
    if constexpr (kRows2 && kColumns2) tile_load<3>(c + 16 * pitch + 16, bytes);
  } else {
    tile_zero<0>();
    if constexpr (kColumns2) tile_zero<1>();
    if constexpr (kRows2) tile_zero<2>();
    if constexpr (kRows2 && kColumns2) tile_zero<3>();
  }
  for (int64_t step = 0; step < steps; ++step, a.at += a.step, b.at += b.step) {
#pragma GCC unroll 2
    for (int i = kLeft - 1; i >= 0; --i) {  // small parts first
      tile_load<4>(a.at + i * a.part, 64);
      if constexpr (kRows2) tile_load<5>(a.at + i * a.part + a.tile, 64);
#pragma GCC unroll 2
      for (int j = kRight - 1; j >= 0; --j) {
        tile_load<6>(b.at + j * b.part, 64);
        if constexpr (kColumns2) tile_load<7>(b.at + j * b.part + b.tile, 64);
        tile_multiply<0, 4, 6>();
        if constexpr (kColumns2) tile_multiply<1, 4, 7>();
        if constexpr (kRows2) tile_multiply<2, 5, 6>();
        if constexpr (kRows2 && kColumns2) tile_multiply<3, 5, 7>();
      }
    }
  }
  tile_store<0>(c, bytes);
  if constexpr (kColumns2) tile_store<1>(c + 16, bytes);
  if constexpr (kRows2) tile_store<2>(c + 16 * pitch, bytes);
  if constexpr (kRows2 && kColumns2) tile_store<3>(c + 16 * pitch + 16, bytes);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_AVX3

#endif
