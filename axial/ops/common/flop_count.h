// SPDX-License-Identifier: Apache-2.0
// Floating-point operations of matrix products and attention, counted alike on the host and on Meta. The
// planner counts a step without data with it; tests count real ones.
#pragma once

#include <cstdint>

namespace axial::ops {

/// Operations, a multiplication and an addition each one; nothing else is counted (norms, activations,
/// softmax, optimizer: a small share of a large model's). Doubles: exact up to 2^53.
struct Flops {
  double products = 0;   ///< of matrices and vectors
  double attention = 0;  ///< of the pairs of query and key that see each other
  double attention_square =
      0;  ///< the same if every query saw all keys of its row: how the field often counts

  double sum() const { return products + attention; }
  double sum_of_square() const { return products + attention_square; }
  Flops& operator+=(const Flops& other);
  friend Flops operator+(Flops a, const Flops& b) { return a += b; }
  friend Flops operator*(double factor, Flops flops);
  friend bool operator==(const Flops&, const Flops&) = default;
};

/// Counts what this thread computes while it lives, backward passes on host and Meta included (those on
/// devices run in other threads): products of torch (mm, bmm, addmm, baddbmm, mv, addmv, dot, and what is
/// made of them: matmul, linear, einsum), axial::linear, and attention of ops/attention. An op that calls
/// others of these is counted once. Convolutions and torch's own attention are not counted.
class FlopCount {
 public:
  /// Starts to count; a count before it rests meanwhile.
  FlopCount();
  FlopCount(const FlopCount&) = delete;
  FlopCount& operator=(const FlopCount&) = delete;
  ~FlopCount();

  /// All that ran, what was computed again included ("hardware").
  const Flops& all() const { return all_; }
  /// Of these what was computed again, to save memory: under a RecomputeScope, and the logits that the
  /// backward of attention makes anew. The rest is what the mathematics asks for ("model").
  const Flops& recomputed() const { return recomputed_; }

 private:
  friend void add_flops(const Flops& all, const Flops& recomputed);
  Flops all_, recomputed_;
  FlopCount* before_;
  uint64_t callback_;
};

/// What this thread computes while it lives was computed before. StepRunner sets it for what it runs again;
/// so does an op whose backward runs its forward again. Without a count it costs nothing.
class RecomputeScope {
 public:
  explicit RecomputeScope(bool again = true);
  RecomputeScope(const RecomputeScope&) = delete;
  RecomputeScope& operator=(const RecomputeScope&) = delete;
  ~RecomputeScope();

 private:
  bool before_;
};

/// True while somebody counts in this thread: whoever must work to know a number asks first.
bool counts_flops();
/// Add operations of this thread to its count, if there is one; `recomputed`, a part of `all`, were computed
/// before (all of them under a RecomputeScope). What an op calls whose work torch's products do not show.
void add_flops(const Flops& all, const Flops& recomputed = {});

}  // namespace axial::ops
