// SPDX-License-Identifier: Apache-2.0
// The inner loops of sketch.h: rolling k-mers, banding, union-find.
#include "axial/data/split/sketch.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace axial::data::detail {
namespace {

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

void add(Sketch& sketch, uint64_t kmer) {
  const uint64_t h = mix(kmer + 0x9E3779B97F4A7C15ull);
  uint32_t& bin = sketch[h >> 57];
  bin = std::min(bin, static_cast<uint32_t>(h));
}

constexpr std::array<uint8_t, 256> make_codes() {
  std::array<uint8_t, 256> codes{};
  codes.fill(4);
  codes['A'] = 0;
  codes['C'] = 1;
  codes['G'] = 2;
  codes['T'] = 3;
  return codes;
}
constexpr std::array<uint8_t, 256> kCodes = make_codes();

void sketch_bases(std::string_view sequence, Sketch& sketch) {
  constexpr int k = kmer_length(true);
  constexpr uint64_t mask = (uint64_t{1} << (2 * k)) - 1;
  uint64_t forward = 0;
  uint64_t reverse = 0;
  int valid = 0;
  for (const char c : sequence) {
    const uint64_t code = kCodes[static_cast<unsigned char>(c)];
    if (code > 3) {
      valid = 0;
      continue;
    }
    forward = (forward << 2 | code) & mask;
    reverse = reverse >> 2 | (3 - code) << (2 * (k - 1));
    if (++valid >= k) add(sketch, std::min(forward, reverse));
  }
}

void sketch_bytes(std::string_view sequence, Sketch& sketch) {
  constexpr int k = kmer_length(false);
  constexpr uint64_t mask = (uint64_t{1} << (8 * k)) - 1;
  uint64_t window = 0;
  int valid = 0;
  for (const char c : sequence) {
    window = (window << 8 | static_cast<unsigned char>(c)) & mask;
    if (++valid >= k) add(sketch, window);
  }
}

class Clusters {
 public:
  explicit Clusters(size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), int64_t{0}); }
  int64_t find(int64_t i) {
    while (at(i) != i) i = at(i) = at(at(i));
    return i;
  }
  // The smaller index becomes the root.
  void join(int64_t a, int64_t b) {
    a = find(a);
    b = find(b);
    at(std::max(a, b)) = std::min(a, b);
  }

 private:
  int64_t& at(int64_t i) { return parent_[static_cast<size_t>(i)]; }
  std::vector<int64_t> parent_;
};

// The widest band that still finds 99 % of the pairs at the threshold.
int band_width(double threshold) {
  int best = 1;
  for (int width = 2; width <= kBins; width *= 2) {
    const double found = 1 - std::pow(1 - std::pow(threshold, width), kBins / width);
    if (found >= 0.99) best = width;
  }
  return best;
}

using Bucket = std::pair<uint64_t, int64_t>;  // hash of the band, item

void join_bucket(const Bucket* begin, const Bucket* end, const std::vector<Sketch>& sketches,
                 double threshold, Clusters& clusters) {
  constexpr size_t kCompared = 16;
  std::vector<int64_t> seen;  // of distinct clusters
  for (const Bucket* at = begin; at < end; ++at) {
    const int64_t item = at->second;
    bool joined = false;
    for (const int64_t other : seen) {
      joined = clusters.find(item) == clusters.find(other);
      if (!joined && similarity(sketches[static_cast<size_t>(item)], sketches[static_cast<size_t>(other)]) >=
                         threshold) {
        clusters.join(item, other);
        joined = true;
      }
      if (joined) break;
    }
    if (!joined && seen.size() < kCompared) seen.push_back(item);
  }
}

}  // namespace

Sketch make_sketch(std::string_view sequence, bool nucleotides) {
  Sketch sketch;
  sketch.fill(kEmptyBin);
  if (nucleotides) {
    sketch_bases(sequence, sketch);
  } else {
    sketch_bytes(sequence, sketch);
  }
  return sketch;
}

double similarity(const Sketch& a, const Sketch& b) {
  int equal = 0;
  int both_empty = 0;
  for (int i = 0; i < kBins; ++i) {
    const auto j = static_cast<size_t>(i);
    equal += a[j] == b[j];
    both_empty += (a[j] == kEmptyBin) & (b[j] == kEmptyBin);
  }
  return both_empty == kBins ? 0 : static_cast<double>(equal - both_empty) / (kBins - both_empty);
}

double similarity_at_identity(double identity, int k) {
  const double shared = std::pow(identity, k);
  return shared / (2 - shared);
}

std::vector<int64_t> cluster(const std::vector<Sketch>& sketches, double threshold) {
  Clusters clusters(sketches.size());
  const int width = band_width(threshold);
  std::vector<Bucket> buckets;
  for (int band = 0; band < kBins; band += width) {
    buckets.clear();
    for (size_t i = 0; i < sketches.size(); ++i) {
      uint64_t h = 0;
      bool empty = true;
      for (int bin = band; bin < band + width; ++bin) {
        const uint32_t value = sketches[i][static_cast<size_t>(bin)];
        h = mix(h * 31 + value + 1);
        empty = empty && value == kEmptyBin;
      }
      if (!empty) buckets.emplace_back(h, static_cast<int64_t>(i));
    }
    std::sort(buckets.begin(), buckets.end());
    for (size_t at = 0; at < buckets.size();) {
      size_t stop = at + 1;
      while (stop < buckets.size() && buckets[stop].first == buckets[at].first) ++stop;
      if (stop - at > 1) {
        join_bucket(buckets.data() + at, buckets.data() + stop, sketches, threshold, clusters);
      }
      at = stop;
    }
  }
  std::vector<int64_t> labels(sketches.size());
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = clusters.find(static_cast<int64_t>(i));
  return labels;
}

}  // namespace axial::data::detail
