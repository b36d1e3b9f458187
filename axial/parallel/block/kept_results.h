// SPDX-License-Identifier: Apache-2.0
// What a block's forward pass leaves for its recompute: results that cost more to compute than to hold.
#pragma once

#include <cstddef>
#include <deque>

#include "axial/ops/attention/attention.h"

namespace axial::parallel {

/// Results of the attention calls of one block and micro-batch, in the order of the calls. The forward pass
/// fills them, the recompute takes them; the runner decides (MemoryPolicy::keep_attention).
class KeptResults {
 public:
  /// Of the next call.
  ops::AttentionResult& next() {
    if (at_ == results_.size()) results_.emplace_back();
    return results_[at_++];
  }
  /// The block runs again.
  void rewind() { at_ = 0; }
  bool empty() const { return results_.empty(); }

 private:
  std::deque<ops::AttentionResult> results_;
  size_t at_ = 0;
};

}  // namespace axial::parallel
