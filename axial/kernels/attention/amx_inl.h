// SPDX-License-Identifier: Apache-2.0
// The products of attention over bfloat16 on the matrix tiles of x86 (AMX): 16 x 16 sums of products of
// bfloat16 pairs, in fp32. Queries, keys, values and incoming gradients are used as they are; P and dS, which
// are fp32, as sums of two bfloat16 parts, 16 bits: more than a bfloat16 result shows. (Float32 as three
// parts, six products, was tried: exact enough, and slower than vectors.)
//
// A word holds two numbers that meet in one sum: columns c and c + 16, queries i and i + 16, or keys j and
// j + 16. Included once per target, by amx.cpp for AVX-512 alone.

#if defined(AXIAL_KERNELS_ATTENTION_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef AXIAL_KERNELS_ATTENTION_AMX_INL_H_
#undef AXIAL_KERNELS_ATTENTION_AMX_INL_H_
#else
#define AXIAL_KERNELS_ATTENTION_AMX_INL_H_
#endif

#include <hwy/highway.h>

#include "axial/kernels/attention/amx_tiles_inl.h"
#include "axial/kernels/attention/products_inl.h"
#include "axial/kernels/attention/transpose_inl.h"

#if HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace axial::kernels::HWY_NAMESPACE {

using attention::TileBuffers;

inline constexpr int kShortSum = 8;  // blocks that tiles add up before they go to a sum of such sums

inline constexpr int kWeightParts = 2;  // of P and dS

/// Engine on tiles.
struct TileProducts {
  using Session = TileSession;

  class Logits {
   public:
    HWY_INLINE Logits(const ForwardBuffers& b, int64_t key, float* scores) : scores_(scores) {
      for (int64_t i = 0; i < kForwardKeys; i += kTileKeys) {
        rows_by_lanes(b.tiles, b.tiles.k_rows + (key + i) * 16, b.tiles.q, scores + i * kQueries);
      }
    }
    HWY_INLINE void operator()(Block<kVectors>& block, int64_t r0) const {
      load_rows(block, scores_ + r0 * kQueries);
    }

   private:
    const float* scores_;
  };

  class Gradients {
   public:
    HWY_INLINE Gradients(const BackwardBuffers& b, int64_t key, float* p, float* dp) : p_(p), dp_(dp) {
      rows_by_lanes(b.tiles, b.tiles.k_rows + key * 16, b.tiles.q, p);
      rows_by_lanes(b.tiles, b.tiles.v_rows + key * 16, b.tiles.dout, dp);
    }
    HWY_INLINE void logits(Block<kVectors>& block, int64_t r0) const { load_rows(block, p_ + r0 * kQueries); }
    HWY_INLINE void gradients(Block<kVectors>& block, int64_t r0) const {
      load_rows(block, dp_ + r0 * kQueries);
    }

   private:
    const float *p_, *dp_;
  };

  static HWY_INLINE void prepare_keys(const ForwardBuffers& b, const Interval& keys) {
    const TileBuffers& t = b.tiles;
    const int64_t last = attention::round_up(keys.end, kForwardKeys);
    for (int64_t key = keys.begin / kForwardKeys * kForwardKeys; key < last; key += kTileKeys) {
      pack_rows_of(b.k + key * b.width, b.width, t, t.k_rows + key * 16);
      pack_columns_of(b.v + key * b.width, b.width, t, t.v_columns + key / kTileKeys * t.panels * kTileWords);
    }
  }
  static HWY_INLINE void prepare_queries(const ForwardBuffers& b) {
    pack_lanes_of(b.q, b.width, b.tiles, b.tiles.q);
  }
  static HWY_INLINE void exponentials(const ForwardBuffers& b, const Floats (&shift)[kVectors],
                                      Floats (&sums)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
      Floats chains[kForwardKeys / 16];
      for (int64_t step = 0; step < kForwardKeys / kTileKeys; ++step) {
        const float* scores = b.scores + step * kTileKeys * kQueries + v * kLanes;
        uint32_t* to = b.tiles.weights + (step * 2 + v) * kTileWords;
        Floats low = hn::Zero(FloatTag()), high = low;
        for (int64_t r = 0; r < 16; ++r) {
          const Floats p = exp_of_negative(hn::Sub(load_floats(scores + r * kQueries), shift[v]));
          const Floats q = exp_of_negative(hn::Sub(load_floats(scores + (r + 16) * kQueries), shift[v]));
          low = hn::Add(low, p);
          high = hn::Add(high, q);
          store_pairs(parts_of<kWeightParts>(p), parts_of<kWeightParts>(q), to + r * 16, 4 * kTileWords);
        }
        chains[2 * step] = low;
        chains[2 * step + 1] = high;
      }
      sums[v] = hn::Add(hn::Add(chains[0], chains[1]), hn::Add(chains[2], chains[3]));
    }
  }
  static HWY_INLINE void add_values(const ForwardBuffers& b, int64_t key) {
    const TileBuffers& t = b.tiles;
    const int64_t step = t.panels * kTileWords;
    const uint32_t* v = t.v_columns + key / kTileKeys * step;
    for_panels(t.panels, [&](int64_t panel, auto count) HWY_ATTR {
      tile_product<1, kWeightParts, count, 2>({v + panel * kTileWords, 0, kTileWords, step},
                                              {t.weights, 4 * kTileWords, kTileWords, 2 * kTileWords},
                                              kForwardKeys / kTileKeys, t.turned + panel * 16 * kQueries,
                                              kQueries, false);
    });
    add_floats(t.turned, b.width * kQueries, b.out);
  }

  static HWY_INLINE void prepare_keys(const BackwardBuffers& b, const Interval& keys) {
    const TileBuffers& t = b.tiles;
    for (int64_t key = keys.begin / kTileKeys * kTileKeys; key < keys.end; key += kTileKeys) {
      pack_rows_of(b.k + key * b.width, b.width, t, t.k_rows + key * 16);
      pack_rows_of(b.v + key * b.width, b.width, t, t.v_rows + key * 16);
      pack_columns_of(b.k + key * b.width, b.width, t, t.k_columns + key / kTileKeys * t.panels * kTileWords);
      t.pending[1 + key / kTileKeys] = 0;
    }
  }
  static HWY_INLINE void prepare_queries(const BackwardBuffers& b) {
    const TileBuffers& t = b.tiles;
    pack_lanes_of(b.q, b.width, t, t.q);
    pack_lanes_of(b.dout, b.width, t, t.dout);
    pack_halves_of(b.q_rows, b.pitch, t, t.q_rows);
    pack_halves_of(b.dout_rows, b.pitch, t, t.dout_rows);
    t.pending[0] = 0;
  }
  static HWY_INLINE void add_gradients(const BackwardBuffers& b, int64_t key, const float* p, const float* ds,
                                       bool dq, bool dk, bool dv) {
    const TileBuffers& t = b.tiles;
    if (dv) pack_weights(p, t.weights, nullptr);
    if (dk || dq) pack_weights(ds, t.ds, t.ds_turned);
    int32_t& pending = t.pending[1 + key / kTileKeys];
    if (dv) rows_by_halves(t, t.weights, t.dout_rows, t.dv + key * b.pitch, b.pitch, pending > 0);
    if (dk) rows_by_halves(t, t.ds, t.q_rows, t.dk + key * b.pitch, b.pitch, pending > 0);
    if (++pending == kShortSum) add_short_sums(b, key, dk, dv);
    if (!dq) return;
    const uint32_t* k = t.k_columns + key / kTileKeys * t.panels * kTileWords;
    for_panels(t.panels, [&](int64_t panel, auto count) HWY_ATTR {
      tile_product<1, kWeightParts, count, 2>({k + panel * kTileWords, 0, kTileWords, 0},
                                              {t.ds_turned, 2 * kTileWords, kTileWords, 0}, 1,
                                              t.dq + panel * 16 * kQueries, kQueries, t.pending[0] > 0);
    });
    if (++t.pending[0] == kShortSum) finish_queries(b, true);
  }
  static HWY_INLINE void finish_queries(const BackwardBuffers& b, bool dq) {
    if (dq && b.tiles.pending[0] > 0) add_floats(b.tiles.dq, b.width * kQueries, b.dq);
    b.tiles.pending[0] = 0;
  }
  static HWY_INLINE void finish_keys(const BackwardBuffers& b, const Interval& keys, bool dk, bool dv) {
    for (int64_t key = keys.begin / kTileKeys * kTileKeys; key < keys.end; key += kTileKeys) {
      if (b.tiles.pending[1 + key / kTileKeys] > 0) add_short_sums(b, key, dk, dv);
    }
  }

 private:
  // Call body(panel, one or two as a constant) over all panels.
  template <class Body>
  static HWY_INLINE void for_panels(int64_t panels, const Body& body) {
    int64_t panel = 0;
    for (; panel + 2 <= panels; panel += 2) body(panel, std::integral_constant<int, 2>());
    if (panel < panels) body(panel, std::integral_constant<int, 1>());
  }

  static HWY_INLINE void load_rows(Block<kVectors>& block, const float* from) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) block.at[r][v] = load_floats(from + r * kQueries + v * kLanes);
    }
  }

  static HWY_INLINE void add_floats(const float* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += kLanes) {
      store_floats(hn::Add(load_floats(to + i), load_floats(from + i)), to + i);
    }
  }

  // 32 rows of `width` floats; pairs of columns.
  static HWY_INLINE void pack_rows_of(const float* rows, int64_t width, const TileBuffers& t, uint32_t* to) {
    for (int64_t step = 0; step < t.steps; ++step) {
      const int64_t left = width - step * 32;
      for (int64_t r = 0; r < kTileKeys; ++r) {
        const float* row = rows + r * width + step * 32;
        store_pairs(parts_of<1>(load_part(row, left)), parts_of<1>(load_part(row + 16, left - 16)),
                    to + step * t.row_step + r * 16, 0);
      }
    }
  }

  // The same, turned: rows are columns, pairs of keys.
  static HWY_INLINE void pack_columns_of(const float* rows, int64_t width, const TileBuffers& t,
                                         uint32_t* to) {
    rows_to_lanes(rows, width, width, t.turned);
    for (int64_t c = 0; c < t.panels * 16; ++c) {
      const float* row = t.turned + c * kQueries;
      const int64_t count = c < width ? kLanes : 0;
      store_pairs(parts_of<1>(load_part(row, count)), parts_of<1>(load_part(row + 16, count)), to + c * 16,
                  0);
    }
  }

  // Queries in lanes, [width, kQueries]; pairs of columns.
  static HWY_INLINE void pack_lanes_of(const float* lanes, int64_t width, const TileBuffers& t,
                                       uint32_t* to) {
    for (int64_t step = 0; step < t.steps; ++step) {
      for (int64_t r = 0; r < 16; ++r) {
        const int64_t c = step * 32 + r;
        for (int v = 0; v < kVectors; ++v) {
          const float* row = lanes + c * kQueries + v * kLanes;
          const Floats low = load_part(row, c < width ? kLanes : 0);
          const Floats high = load_part(row + 16 * kQueries, c + 16 < width ? kLanes : 0);
          store_pairs(parts_of<1>(low), parts_of<1>(high), to + (step * 2 + v) * kTileWords + r * 16, 0);
        }
      }
    }
  }

  // Queries in rows, [kQueries, pitch]; pairs of queries.
  static HWY_INLINE void pack_halves_of(const float* rows, int64_t pitch, const TileBuffers& t,
                                        uint32_t* to) {
    for (int64_t panel = 0; panel < t.panels; ++panel) {
      for (int64_t r = 0; r < 16; ++r) {
        const float* row = rows + r * pitch + panel * 16;
        store_pairs(parts_of<1>(load_floats(row)), parts_of<1>(load_floats(row + 16 * pitch)),
                    to + panel * kTileWords + r * 16, 0);
      }
    }
  }

  // 32 keys by 32 queries; pairs of queries, and where wanted pairs of keys.
  static HWY_INLINE void pack_weights(const float* from, uint32_t* rows, uint32_t* turned) {
    constexpr int64_t kPart = 2 * kTileWords;
    for (int64_t r = 0; r < 16; ++r) {
      const float* low = from + r * kQueries;
      const float* high = low + 16 * kQueries;
      const auto a = parts_of<kWeightParts>(load_floats(low));
      const auto b = parts_of<kWeightParts>(load_floats(low + 16));
      const auto c = parts_of<kWeightParts>(load_floats(high));
      const auto d = parts_of<kWeightParts>(load_floats(high + 16));
      store_pairs(a, b, rows + r * 16, kPart);
      store_pairs(c, d, rows + (r + 16) * 16, kPart);
      if (turned == nullptr) continue;
      store_pairs(a, c, turned + r * 16, kPart);
      store_pairs(b, d, turned + kTileWords + r * 16, kPart);
    }
  }

  // to[key][query] = sum over columns, of 32 keys.
  static HWY_INLINE void rows_by_lanes(const TileBuffers& t, const uint32_t* rows, const uint32_t* lanes,
                                       float* to) {
    tile_product<1, 1, 2, 2>({rows, 0, kTileWords, t.row_step}, {lanes, 0, kTileWords, 2 * kTileWords},
                             t.steps, to, kQueries, false);
  }

  // to[key][column] = or += sum over queries, of 32 keys.
  static HWY_INLINE void rows_by_halves(const TileBuffers& t, const uint32_t* weights, const uint32_t* halves,
                                        float* to, int64_t pitch, bool add) {
    for_panels(t.panels, [&](int64_t panel, auto count) HWY_ATTR {
      tile_product<kWeightParts, 1, 2, count>({weights, 2 * kTileWords, kTileWords, 0},
                                              {halves + panel * kTileWords, 0, kTileWords, 0}, 1,
                                              to + panel * 16, pitch, add);
    });
  }

  static HWY_INLINE void add_short_sums(const BackwardBuffers& b, int64_t key, bool dk, bool dv) {
    const int64_t at = key * b.pitch, count = kTileKeys * b.pitch;
    if (dk) add_floats(b.tiles.dk + at, count, b.dk + at);
    if (dv) add_floats(b.tiles.dv + at, count, b.dv + at);
    b.tiles.pending[1 + key / kTileKeys] = 0;
  }
};

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace axial::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_AVX3

#endif
