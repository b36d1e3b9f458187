// SPDX-License-Identifier: Apache-2.0
// How many pairs of query and key see each other: what attention computes. call.cpp counts operations with
// it (ops/common/flop_count), parallel/sequence_attention says it of the pieces of a row.
#pragma once

#include <cstdint>
#include <optional>

namespace axial::ops {

/// Pairs of I queries and J keys with lowest <= j - i <= highest.
double pairs_between(int64_t queries, int64_t keys, int64_t lowest, int64_t highest);

/// What the caller of an attention op knows of the pairs of one head and row: where
/// intervals lie on Meta they hold no numbers, and a piece of a row says nothing of the rest. An op takes
/// `seen` where it cannot look, and `square` always; its backward remembers both.
struct KnownPairs {
  double seen = 0;
  double square = 0;  ///< if every query saw all keys of its row
};

/// Says them to the ops that this thread calls.
class KnownPairsScope {
 public:
  /// None: nothing is known.
  explicit KnownPairsScope(const std::optional<KnownPairs>& pairs);
  KnownPairsScope(const KnownPairsScope&) = delete;
  KnownPairsScope& operator=(const KnownPairsScope&) = delete;
  ~KnownPairsScope();

 private:
  const KnownPairs* before_;
  KnownPairs pairs_;
};
/// Of the innermost scope of this thread.
std::optional<KnownPairs> known_pairs();

}  // namespace axial::ops
