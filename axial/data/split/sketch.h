// SPDX-License-Identifier: Apache-2.0
// MinHash sketches of sequences and their clusters by LSH and union-find. Used by split.cpp alone.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace axial::data::detail {

inline constexpr int kBins = 128;
inline constexpr uint32_t kEmptyBin = 0xffffffffu;

/// Minimum of the hashes that fall into each bin.
using Sketch = std::array<uint32_t, kBins>;

/// Length of the k-mers.
inline constexpr int kmer_length(bool nucleotides) { return nucleotides ? 21 : 6; }

/// Sketch a sequence: canonical 21-mers of A C G T (others break), or 6-mers of bytes.
Sketch make_sketch(std::string_view sequence, bool nucleotides);

/// Jaccard similarity estimated from the bins that are filled on either side; 0 when none is.
double similarity(const Sketch& a, const Sketch& b);

/// The Jaccard similarity at which the estimated identity is `identity`.
double similarity_at_identity(double identity, int k);

/// Label the items so that those with similarity >= threshold share a label (single linkage). Labels are
/// the smallest index of each cluster. Pairs are found by banding: 99 % of the pairs at the threshold itself,
/// more above it; inside a band's bucket an item is compared to at most 16 others of distinct clusters.
std::vector<int64_t> cluster(const std::vector<Sketch>& sketches, double threshold);

}  // namespace axial::data::detail
